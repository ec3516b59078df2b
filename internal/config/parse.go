package config

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"activator/internal/spec"
)

// parsed is a file that was read, as far as it could be understood.
type parsed struct {
	*reading
	service spec.Service
	claims  []claim // one for each socket, in order
}

func parseFile(name string, text []byte, env Env) *parsed {
	path := name
	if !filepath.IsAbs(path) {
		path = filepath.Join(env.Dir, path)
	}
	if rest, marked := bytes.CutPrefix(text, []byte("\ufeff")); marked {
		text = append([]byte("   "), rest...) // instead of the byte order mark, so that places stay right
	}
	r := &reading{
		file: name, dir: filepath.Dir(path), name: strings.TrimSuffix(filepath.Base(path), ".toml"),
		text: text, env: env, given: make(map[string]value),
	}
	p := &parsed{reading: r, service: spec.Service{File: path, Process: spec.Process{Name: r.name}}}
	if !filepath.IsAbs(path) {
		r.addFileError("", "the path of the current folder cannot be found, and the file's is relative to it", "give an absolute path, or go to a folder that is there")
	}
	if err := checkName(r.name); err != nil {
		r.addFileError("", err.Error(), "the file's name without .toml is the service's: letters, digits and - _ . @, at most 64, beginning with a letter or digit")
	}
	top, whole := r.parseDocument()
	if !whole {
		return p // missing keys may stand in the rest
	}
	tables := r.readTables(top)
	p.passed = p.readPassed(tables)
	p.readService(tables)
	if _, there := tables["socket"]; !there && !isMisspelt(p.errs, "socket") {
		p.addFileError("socket", "there is none, so nobody could ever start the service", `write [[socket]] and below it listen = ["tcp://127.0.0.1:3000"]`)
	}
	p.readSockets(tables["socket"])
	p.checkTables()
	p.service.Complete()
	return p
}

// checkName checks a service's name. It becomes a name in LISTEN_FDNAMES, a host name, and a part
// of paths and of a container's name.
func checkName(name string) error {
	odd := func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("-_.@", c)
	}
	if name == "" || len(name) > 64 || strings.ContainsFunc(name, odd) || strings.Contains("-_.@", name[:1]) {
		return wrong("", "%q cannot be the name of a service", name)
	}
	return nil
}

// readService reads [service], [sandbox] and [container].
func (p *parsed) readService(tables map[string][]*table) {
	s := &p.service
	setDefaults(serviceKeys(), s)
	setDefaults(sandboxKeys(), s)
	if tables["container"] != nil {
		s.Container = new(spec.Container)
		setDefaults(containerKeys(), s)
	}
	parts := []struct {
		name string
		keys []field[spec.Service]
	}{{"service", serviceKeys()}, {"sandbox", sandboxKeys()}, {"container", containerKeys()}}
	for _, part := range parts {
		for _, t := range tables[part.name] {
			for key, v := range fillSection(p.reading, part.name, part.keys, t, s) {
				p.given[part.name+"."+key] = v
			}
		}
	}
	for _, part := range parts {
		for _, t := range tables[part.name] {
			checkMeaning(p.reading, part.name, part.keys, t, s)
		}
	}
	if s.Sandbox.Network == "host" {
		s.Seal = "off"
	}
	kinds := []string{"state", "cache", "logs", "runtime"}
	slices.SortStableFunc(s.Directories, func(a, b spec.Directory) int {
		return slices.Index(kinds, a.Kind) - slices.Index(kinds, b.Kind)
	})
}

// readSockets reads every [[socket]] and makes a socket of each of its addresses.
func (p *parsed) readSockets(tables []*table) {
	for _, t := range tables {
		var g group
		setDefaults(socketKeys(), &g)
		g.Name = p.name
		// What a client passes in is a socket of the host's, or worse: the seal
		// refuses it unless the configuration names it.
		g.Options.RefuseRights = p.service.Seal != "off"
		before, kept := p.countErrors(), len(p.errs)
		given := fillSection(p.reading, "socket", socketKeys(), t, &g)
		if _, ok := given["listen"]; !ok && !isMisspelt(p.errs[kept:], "listen") || ok && len(g.listen) == 0 && p.countErrors() == before {
			p.addError(t.at, "socket.listen", "there is no address", `write listen = ["tcp://127.0.0.1:3000"]`)
		}
		if len(g.listen) == 0 {
			continue // without addresses no key can be checked
		}
		checkMeaning(p.reading, "socket", socketKeys(), t, &g)
		p.checkGroup(&g, given)
		keyed := make(map[string]value, len(given))
		for name, v := range given {
			keyed["socket."+name] = v
		}
		p.service.Sockets = slices.Grow(p.service.Sockets, len(g.listen)) // no more: a thousand services have many
		for _, a := range g.listen {
			p.service.Sockets = append(p.service.Sockets, g.makeSocket(a))
			c := claim{place: a, file: p, links: given["symlinks"].at, target: a.at, given: keyed}
			if v, ok := given["target"]; ok {
				c.target = v.at
			}
			p.claims = append(p.claims, c)
		}
	}
}

// makeSocket returns one address of the group with the options that fit it.
func (g *group) makeSocket(a place) spec.Socket {
	one := group{listen: []place{a}, Socket: g.Socket}
	one.Address = a.Address
	keys := socketKeys()
	for i := range keys {
		if keys[i].explainIdle(&one) != "" {
			keys[i].clear(&one)
		}
	}
	return one.Socket
}

// checkGroup reports options of one [[socket]] that do not fit together.
func (p *parsed) checkGroup(g *group, given map[string]value) {
	if v, ok := given["target"]; ok && p.service.Inherits() {
		p.addError(v.at, "socket.target", `has no meaning here: it is for handover = "bind" and "proxy"`, "")
	}
	nodes := 0
	for _, a := range g.listen {
		if a.Node() != "" {
			nodes++
		}
		if (a.Network == spec.TCP6 || a.Network == spec.UDP6) && g.Options.BindIPv6Only == "both" {
			p.addError(given["bind_ipv6_only"].at, "socket.bind_ipv6_only", "contradicts "+a.String()+", which is IPv6 alone", "write "+strings.Replace(a.String(), "6", "", 1))
		}
		if p.service.Accept && !a.IsStream() {
			p.addError(a.at, "socket.listen", a.String()+" has no connections, but accept is true", "")
		}
	}
	if nodes > 1 && len(g.Options.Symlinks) > 0 {
		p.addError(given["symlinks"].at, "socket.symlinks", "which of the paths they point at cannot be told", "give each path a [[socket]] of its own")
	}
}

// checkTables reports keys of different tables that do not fit together.
func (p *parsed) checkTables() {
	s := &p.service
	if v, ok := p.given["service.restart_delay"]; ok && s.RestartDelay > s.RestartMaxDelay {
		p.addError(v.at, "service.restart_delay", "is more than restart_max_delay, "+s.RestartMaxDelay.String(), "")
	} else if v, ok := p.given["service.restart_max_delay"]; ok && s.RestartDelay > s.RestartMaxDelay {
		p.addError(v.at, "service.restart_max_delay", "is less than restart_delay, "+s.RestartDelay.String(), "")
	}
	if v, ok := p.given["service.group"]; ok && s.Container != nil && s.User == "" {
		p.addError(v.at, "service.group", "in a container a group needs a user", `write user = "NAME" beside it`)
	}
	if v, ok := p.given["sandbox.connect"]; ok && s.Container != nil && s.Sandbox.Connect == "any" && !s.InternetSockets() {
		p.addError(v.at, "sandbox.connect", `"any" has no meaning here: no internet socket can be made in the container`, "write internet_sockets = true below [container], or connect = \"unix\"")
	}
	p.checkProgram()
	p.checkMounts()
	p.checkTargets()
	p.checkAccept()
	p.checkOwners()
}

// checkProgram checks the program, and makes its path absolute.
func (p *parsed) checkProgram() {
	s := &p.service
	v, given := p.given["service.exec"]
	if s.Container != nil {
		if _, given := p.given["container.image"]; !given && !isMisspelt(p.errs, "image") {
			p.addFileError("container.image", "there is none", `write image = "localhost/NAME" below [container]`)
		}
		return
	}
	switch {
	case !given && (isMisspelt(p.errs, "exec") || isMisspelt(p.errs, "service") || isMisspelt(p.errs, "container")):
		return
	case !given:
		p.addFileError("service.exec", "there is none, nor a [container]", `write exec = ["PROGRAM", "ARGUMENT"] below [service]`)
		return
	case len(v.items) == 0 || len(s.Argv) == 0:
		if v.kind == unstable.Array && len(v.items) == 0 {
			p.addError(v.at, "service.exec", "names no program", `write exec = ["PROGRAM", "ARGUMENT"]`)
		}
		return
	}
	program := s.Argv[0]
	switch {
	case program == "":
		p.addError(v.items[0].at, "service.exec", "the program is empty", "")
	case !strings.Contains(program, "/"):
	case filepath.IsAbs(program):
		p.keepProgram(v, filepath.Clean(program), refuseParent(program))
	case s.Sandbox.Root != "":
		p.addError(v.items[0].at, "service.exec", "a relative path has no meaning here: the program is looked for in [sandbox] root", "write the path as it is inside, as in /"+filepath.Base(program))
	default:
		path, err := p.hostPath(program)
		p.keepProgram(v, path, err)
	}
}

// keepProgram keeps the path of the program that exec names, or says what is wrong with it.
func (p *parsed) keepProgram(exec value, path string, err error) {
	if err != nil {
		p.key = "service.exec"
		p.addValueError(exec.items[0], err)
		return
	}
	p.service.Argv[0] = path
}

// checkMounts finds two mounts on one place.
func (p *parsed) checkMounts() {
	seen := make(map[string]bool)
	add := func(key string, i int, inside string) {
		items := p.given[key].items
		if seen[inside] && inside != "" && i < len(items) {
			p.addError(items[i].at, key, "a second mount on "+inside, "")
		}
		seen[inside] = true
	}
	for i, m := range p.service.Sandbox.ReadOnly {
		add("sandbox.read_only", i, m.Inside)
	}
	for i, m := range p.service.Sandbox.Writable {
		add("sandbox.writable", i, m.Inside)
	}
	for i, path := range p.service.Sandbox.Tmpfs {
		add("sandbox.tmpfs", i, path)
	}
}
