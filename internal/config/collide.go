package config

import (
	"cmp"
	"fmt"
	"path/filepath"

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
	paths := newTakenPaths()
	for _, f := range files {
		f.errs = append(f.errs, paths.takeAll(f.service.Sockets, f.claims, func(path string) string { return path })...)
		for i, c := range f.claims {
			if !c.IsInternet() {
				continue
			}
			o := &f.service.Sockets[i].Options
			port := portOf(c.Address)
			for _, other := range ports[port] {
				if why := explainOverlap(c.Address, o, other.Address, other.options); why != "" {
					f.addError(c.at, "socket.listen", fmt.Sprintf("%s %s, at %s", c.Address, why, other.formatPlace(other.at)), "give one of the two another address")
					break
				}
			}
			ports[port] = append(ports[port], taker{c, o})
		}
	}
}

// CheckPaths finds paths that two sockets of the sources would have on this host: resolve returns
// a path without the links in it.
func CheckPaths(sources []Source, resolve func(path string) string) (errs Errors) {
	paths := newTakenPaths()
	for _, s := range sources {
		errs = append(errs, paths.takeAll(s.Service.Sockets, s.from.claims, resolve)...)
	}
	return errs
}

// takenPaths are the paths of all sockets: where each is written.
type takenPaths struct {
	names    map[string]string // by path, or by a name of another kind
	reserves map[string]string // by the path of a reserve
	folders  map[string]string // above them
}

func newTakenPaths() takenPaths {
	return takenPaths{make(map[string]string), make(map[string]string), make(map[string]string)}
}

// findConflict says why nothing can be made at a path; "" where it can.
func (t takenPaths) findConflict(path string) string {
	if first := t.names[path]; first != "" {
		return path + " is taken already, at " + first
	}
	if first := t.reserves[path]; first != "" {
		return path + " is the second name of a socket, at " + first
	}
	if first := t.names[spec.ReservePath(path)]; first != "" {
		return spec.ReservePath(path) + ", its second name, is taken already, at " + first
	}
	if first := t.folders[path]; first != "" {
		return path + " is a folder above the path at " + first
	}
	for folder := filepath.Dir(path); folder != "/" && folder != "."; folder = filepath.Dir(folder) {
		if first := cmp.Or(t.names[folder], t.reserves[folder]); first != "" {
			return path + " is below " + folder + ", which is no folder, at " + first
		}
	}
	return ""
}

// takeAll takes the paths of the sockets of one file. It returns an error for each that is taken already.
func (t takenPaths) takeAll(sockets []spec.Socket, claims []claim, resolve func(path string) string) (errs Errors) {
	for i, c := range claims {
		take := func(written string, at int, key string) {
			path := written
			if filepath.IsAbs(written) {
				path = resolve(written)
			}
			if conflict := t.takePath(path, c.formatPlace(at), key == "listen"); conflict != "" {
				if path != written {
					conflict = written + " leads to " + path + ": " + conflict
				}
				errs = append(errs, c.file.newError(at, "socket."+key, conflict, "give one of the two another path"))
			}
		}
		if !c.IsInternet() {
			take(nameOf(c.Address), c.at, "listen")
		}
		for _, link := range sockets[i].Options.Symlinks {
			take(link, c.links, "symlinks")
		}
	}
	return errs
}

// takePath takes a path for what is written at where. It says what is in the way; "" if nothing is.
func (t takenPaths) takePath(path, where string, reserved bool) (conflict string) {
	if conflict = t.findConflict(path); conflict != "" {
		return conflict
	}
	t.names[path] = where
	if !filepath.IsAbs(path) {
		return ""
	}
	if reserved {
		t.reserves[spec.ReservePath(path)] = where
	}
	for folder := filepath.Dir(path); folder != "/"; folder = filepath.Dir(folder) {
		t.folders[folder] = where
	}
	return ""
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
