package config

import (
	"fmt"
	"strconv"

	"activator/internal/spec"
)

// checkCarried reports addresses that cannot be carried to a program in its own network, and fills
// in the targets that are not written: the same address.
func (p *parsed) checkCarried() {
	s := &p.service
	refuse := func(what, cure string) {
		p.addError(p.given["service.handover"].at, "service.handover", what, cure)
	}
	switch network := s.Sandbox.Network; {
	case s.Container != nil:
		refuse(`"proxy" has no meaning here: a container gets its sockets as descriptors`, "")
		return
	case network != "none":
		refuse(`"proxy" is for a program with a network of its own, and network is `+strconv.Quote(network), `write network = "none", or handover = "fds" or "bind"`)
		return
	}
	for i := range s.Sockets {
		socket, c := &s.Sockets[i], p.claims[i]
		switch {
		case c.Network == "":
			continue // reported where it was read
		case !isCarried(c.Address):
			p.addError(c.at, "socket.listen", fmt.Sprintf(`%s cannot be carried: handover = "proxy" is for tcp://, udp:// and unix://`, c), `handover = "bind" and "fds" serve it`)
			continue
		}
		switch target := fillTarget(socket); {
		case c.IsUDP() && !target.IsUDP():
			p.addError(c.target, "socket.target", fmt.Sprintf(`%s is nothing that datagrams can be carried to: it is udp://`, target), "")
		case !c.IsUDP() && (!isCarried(target) || target.IsUDP()):
			p.addError(c.target, "socket.target", fmt.Sprintf(`%s is nothing that connections can be carried to: it is tcp:// or unix://`, target), "")
		}
	}
}

func isCarried(a spec.Address) bool { return a.IsTCP() || a.IsUDP() || a.Network == spec.Unix }
