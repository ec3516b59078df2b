package config

import (
	"fmt"
	"path/filepath"

	"activator/internal/spec"
)

// checkTargets reports addresses that the program cannot bind in place of ours, and fills in the
// targets that are not written: the same address.
func (p *parsed) checkTargets() {
	s := &p.service
	if s.Handover == spec.Proxy {
		p.checkCarried()
	}
	if s.Handover != spec.Bind {
		return
	}
	if s.Container != nil {
		p.addError(p.given["service.handover"].at, "service.handover", `"bind" has no meaning here: a container gets its sockets as descriptors`, "")
		return
	}
	taken := make(map[string]string)
	for i := range s.Sockets {
		socket, c := &s.Sockets[i], p.claims[i]
		if c.Network == "" {
			continue // reported where it was read
		}
		if !socket.Address.IsInternet() && !socket.Address.IsUnix() {
			p.addError(c.at, "socket.listen", fmt.Sprintf(`%s cannot be bound by the program: handover = "bind" is for tcp://, udp:// and unix sockets`, c), "")
			continue
		}
		p.checkWritable(c)
		target := fillTarget(socket)
		if kindOf(target) != kindOf(c.Address) {
			p.addError(c.target, "socket.target", fmt.Sprintf("%s is another kind of socket than %s", target, c), "give each kind a [[socket]] of its own")
			continue
		}
		if first, there := taken[target.String()]; there {
			p.addError(c.target, "socket.target", fmt.Sprintf("%s is the target of another address already, at %s", target, first),
				"the program gets one socket for what it binds; give each address a [[socket]] and a target of its own")
			continue
		}
		taken[target.String()] = c.formatPlace(c.target)
		socket.Mapped = isMapped(socket)
	}
}

// fillTarget makes the target the same address, where no other one is written.
func fillTarget(s *spec.Socket) spec.Address {
	if s.Target == (spec.Address{}) {
		s.Target = s.Address
	}
	return s.Target
}

// isMapped reports whether the program needs a socket of IPv6 for an address of IPv4: one that binds datagrams by IPv6 alone
// can answer by no other. Connections are of a family of their own.
func isMapped(s *spec.Socket) bool {
	_, six := s.Address.Families()
	four, _ := s.Target.Families()
	return s.Address.IsUDP() && !six && !four
}

// kindOf returns a network: a socket can replace another one of the same.
func kindOf(a spec.Address) spec.Network {
	switch {
	case a.IsTCP():
		return spec.TCP
	case a.IsUDP():
		return spec.UDP
	}
	return a.Network
}

// checkWritable reports a path in a writable folder: a program removes the path before it binds
// it, and would remove ours.
func (p *parsed) checkWritable(c claim) {
	var folders []string
	for _, m := range p.service.Sandbox.Writable {
		folders = append(folders, m.Host)
	}
	for _, d := range p.service.Directories {
		if d.Kind == "runtime" && p.env.Runtime != "" {
			folders = append(folders, filepath.Join(p.env.Runtime, d.Name))
		}
	}
	for _, folder := range folders {
		if spec.IsBelow(c.Node(), folder) {
			p.addError(c.at, "socket.listen", fmt.Sprintf("%s lies in a folder that the program may write to, %s: it would remove the path and bind it anew", c, folder), "")
		}
	}
}
