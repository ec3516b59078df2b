package config

import (
	"fmt"

	"activator/internal/spec"
)

// claim is a socket of some file, which no other socket may overlap.
type claim struct {
	place
	file   *parsed
	links  int              // where its symlinks are written
	target int              // where its target is; of none the address
	given  map[string]value // by key, "socket.socket_user"
}

func (c claim) formatPlace(at int) string {
	line, column, _ := locateOffset(c.file.text, at)
	return fmt.Sprintf("%s:%d:%d", c.file.file, line, column)
}

// checkCollisions reports addresses and paths that two sockets of the files would have.
func checkCollisions(files []*parsed) {
	type taker struct {
		claim
		options *spec.Options
	}
	ports := make(map[string][]taker) // by port
	paths := make(map[string]string)  // by path or name: where it is written
	for _, f := range files {
		for i, c := range f.claims {
			o := &f.service.Sockets[i].Options
			if !c.IsInternet() {
				f.takePath(paths, nameOf(c.Address), c, c.at, "listen")
			} else {
				port := portOf(c.Address)
				for _, other := range ports[port] {
					if why := explainOverlap(c.Address, o, other.Address, other.options); why != "" {
						f.addError(c.at, "socket.listen", fmt.Sprintf("%s %s, at %s", c.Address, why, other.formatPlace(other.at)), "give one of the two another address")
						break
					}
				}
				ports[port] = append(ports[port], taker{c, o})
			}
			for _, link := range o.Symlinks {
				f.takePath(paths, link, c, c.links, "symlinks")
			}
		}
	}
}

// takePath reports a path that is taken already.
func (p *parsed) takePath(paths map[string]string, path string, c claim, at int, key string) {
	if first, taken := paths[path]; taken {
		p.addError(at, "socket."+key, fmt.Sprintf("%s is taken already, at %s", path, first), "give one of the two another path")
		return
	}
	paths[path] = c.formatPlace(at)
}

// nameOf returns the path of a, for every kind of socket. Abstract names and ports of virtual
// machines differ by kind.
func nameOf(a spec.Address) string {
	if node := a.Node(); node != "" {
		return node
	}
	return a.String()
}

func portOf(a spec.Address) string { return fmt.Sprintf("%d:%d", a.Type(), a.Port) }

// explainOverlap says why the kernel cannot bind both of two addresses of one port. It is "" if
// the kernel can, or if that depends on the host. ip(7), ipv6(7), socket(7).
func explainOverlap(a spec.Address, ao *spec.Options, b spec.Address, bo *spec.Options) string {
	if a == b {
		return "is taken already"
	}
	switch {
	case ao.ReusePort && bo.ReusePort:
		return ""
	case ao.BindToDevice != "" && bo.BindToDevice != "" && ao.BindToDevice != bo.BindToDevice:
		return ""
	case a.IP.IsValid() && b.IP.IsValid():
		return "" // different ones
	}
	four, six := takenFamilies(a, ao)
	otherFour, otherSix := takenFamilies(b, bo)
	if four && otherFour || six && otherSix {
		return fmt.Sprintf("overlaps with %s", b)
	}
	return ""
}

// takenFamilies returns the families of whose port a certainly takes.
func takenFamilies(a spec.Address, o *spec.Options) (four, six bool) {
	four, six = a.Families()
	if four && six {
		four = o.BindIPv6Only == "" || o.BindIPv6Only == "both"
	}
	return four, six
}
