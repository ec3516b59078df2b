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

func (c claim) formatPlace(at int) string { return written{c.file.reading, at}.String() }

// written is where something is written. It is formatted when it is asked for, which takes long in a large file.
type written struct {
	in *reading // nil: nowhere
	at int
}

func (w written) String() string {
	line, column, _ := locateOffset(w.in.text, w.at)
	return fmt.Sprintf("%s:%d:%d", w.in.file, line, column)
}

// checkCollisions reports addresses and paths that two sockets of the files would have.
func checkCollisions(files []*parsed) {
	ports := make(map[string]*takenPort)
	paths := newTakenPaths()
	for _, f := range files {
		full := func(found Errors) bool { return f.dropError(len(found)) }
		f.errs = append(f.errs, paths.takeAll(f.service.Sockets, f.claims, func(path string) string { return path }, full)...)
		for i, c := range f.claims {
			if !c.IsInternet() {
				continue
			}
			o := &f.service.Sockets[i].Options
			port := ports[portOf(c.Address)]
			if port == nil {
				port = &takenPort{at: make(map[spec.Address]taker)}
				ports[portOf(c.Address)] = port
			}
			if other, why := port.take(taker{c, o}); why != "" && !f.dropError(0) {
				f.addError(c.at, "socket.listen", fmt.Sprintf("%s %s, at %s", c.Address, why, other.formatPlace(other.at)), "give one of the two another address")
			}
		}
	}
}

// taker is who takes an address.
type taker struct {
	claim
	options *spec.Options
}

// takenPort are the addresses of one port.
type takenPort struct {
	at   map[spec.Address]taker
	all  []taker
	wild []taker // those of all that are no one address: few
}

// take takes an address. It returns the first taker that is in the way, and why; "" if none is.
func (p *takenPort) take(t taker) (other taker, why string) {
	first, same := p.at[t.Address]
	others := p.all
	if t.IP.IsValid() { // different addresses are not in each other's way
		others = p.wild
	}
	for _, other := range others {
		if why := explainOverlap(t.Address, t.options, other.Address, other.options); why != "" {
			return other, why
		}
	}
	if same {
		return first, explainOverlap(t.Address, t.options, first.Address, first.options)
	}
	p.at[t.Address] = t
	p.all = append(p.all, t)
	if !t.IP.IsValid() {
		p.wild = append(p.wild, t)
	}
	return taker{}, ""
}

// CheckPaths finds paths that two sockets of the sources would have on this host: resolve returns
// a path without the links in it.
func CheckPaths(sources []Source, resolve func(path string) string) (errs Errors) {
	paths := newTakenPaths()
	for _, s := range sources {
		full := func(found Errors) bool { return len(errs)+len(found) >= mostErrors }
		errs = append(errs, paths.takeAll(s.Service.Sockets, s.from.claims, resolve, full)...)
	}
	return errs
}

// takenPaths are the paths of all sockets: where each is written.
type takenPaths struct {
	names    map[string]written // by path, or by a name of another kind
	reserves map[string]written // by the path of a reserve
	folders  map[string]written // above them
}

func newTakenPaths() takenPaths {
	return takenPaths{make(map[string]written), make(map[string]written), make(map[string]written)}
}

// findConflict says why nothing can be made at a path, up to the place where that is written; "" where it can.
func (t takenPaths) findConflict(path string) (conflict string, at written) {
	if first := t.names[path]; first.in != nil {
		return path + " is taken already, at ", first
	}
	if first := t.reserves[path]; first.in != nil {
		return path + " is the second name of a socket, at ", first
	}
	if first := t.names[spec.ReservePath(path)]; first.in != nil {
		return spec.ReservePath(path) + ", its second name, is taken already, at ", first
	}
	if first := t.folders[path]; first.in != nil {
		return path + " is a folder above the path at ", first
	}
	for folder := filepath.Dir(path); folder != "/" && folder != "."; folder = filepath.Dir(folder) {
		if first := cmp.Or(t.names[folder], t.reserves[folder]); first.in != nil {
			return path + " is below " + folder + ", which is no folder, at ", first
		}
	}
	return "", written{}
}

// takeAll takes the paths of the sockets of one file. It returns an error for each that is taken already, while full does not
// report that there are enough of them.
func (t takenPaths) takeAll(sockets []spec.Socket, claims []claim, resolve func(path string) string, full func(Errors) bool) (errs Errors) {
	for i, c := range claims {
		take := func(name string, at int, key string) {
			path := name
			if filepath.IsAbs(name) {
				path = resolve(name)
			}
			if conflict, first := t.takePath(path, written{c.file.reading, at}, key == "listen"); conflict != "" && !full(errs) {
				conflict += first.String()
				if path != name {
					conflict = name + " leads to " + path + ": " + conflict
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

// takePath takes a path for what is written at where. It says what is in the way, and where that is written; "" if nothing is.
func (t takenPaths) takePath(path string, where written, reserved bool) (conflict string, at written) {
	if conflict, at = t.findConflict(path); conflict != "" {
		return conflict, at
	}
	t.names[path] = where
	if !filepath.IsAbs(path) {
		return "", written{}
	}
	if reserved {
		t.reserves[spec.ReservePath(path)] = where
	}
	for folder := filepath.Dir(path); folder != "/"; folder = filepath.Dir(folder) {
		t.folders[folder] = where
	}
	return "", written{}
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
