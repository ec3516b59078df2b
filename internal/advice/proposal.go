package advice

import (
	"cmp"
	"fmt"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"activator/internal/spec"
)

// Run is how an observed run went.
type Run struct {
	Failed bool // the program has ended, and not as one that works
	Deaf   bool // clients wait at one of its sockets, and the program takes none
}

// Proposal is the configuration that a run would not have lacked anything by.
type Proposal struct {
	Service spec.Service
	Why     map[string][]string // of what was added, by its key: "sandbox.connect"
	Remarks []string            // what it lacked, and is not to be added without a thought

	run     Run
	files   []string         // of the host's, that it looked for
	listed  map[string]bool  // folders of them that it read
	system  string           // of /sys, that it looked for; "": nothing
	refused []spec.Finding   // that have a line
	owned   []string         // names of its own folders that it lacked
	homes   []spec.Directory // of its own, that it looked for and nobody has
}

// Propose adds to a configuration what a run of it lacked: what was found, in that order.
func Propose(conf spec.Service, found []spec.Finding, run Run) *Proposal {
	p := &Proposal{Service: conf, Why: map[string][]string{}, run: run, listed: map[string]bool{}}
	p.Service.Sandbox.ReadOnly = slices.Clone(conf.Sandbox.ReadOnly)
	for _, f := range found {
		switch {
		case f.Path != "":
			p.addPath(f)
		case f.ID != "":
			p.addID(f)
		case f.Line == spec.SyslogLine:
			p.Service.Syslog = true
			p.add("service.syslog", "it logs by syslog(3)")
		case f.Line == spec.InitLine:
			p.Service.Sandbox.Init = true
			p.add("sandbox.init", "as pid 1 it does not end by its stop signal")
		case f.Line != "":
			p.refused = append(p.refused, f)
		case f.Bound == (spec.Address{}):
			p.remark("it " + f.Text)
		}
	}
	p.mountFiles()
	p.addHome()
	p.proposeBind(found)
	p.proposeTargets(found)
	p.openRefused()
	return p
}

func (p *Proposal) remark(text string) {
	if !slices.Contains(p.Remarks, text) {
		p.Remarks = append(p.Remarks, text)
	}
}

// add says why a key has a new value.
func (p *Proposal) add(key, format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(p.Why[key], text) {
		p.Why[key] = append(p.Why[key], text)
	}
}

// MountArguments mounts the files that a program is told of by its arguments: they are meant to be seen.
func MountArguments(conf spec.Service) *Proposal {
	p := &Proposal{Service: conf, Why: map[string][]string{}}
	p.Service.Sandbox.ReadOnly = slices.Clone(conf.Sandbox.ReadOnly)
	for _, argument := range conf.Argv[min(1, len(conf.Argv)):] {
		_, value, _ := strings.Cut(argument, "=")
		for _, at := range []string{argument, value} {
			info, err := os.Stat(at)
			if conf.Sandbox.Root == "" && path.IsAbs(at) && err == nil && info.Mode().IsRegular() && !strings.Contains(at, ":") && !shown.MatchString(path.Clean(at)) && !p.has(at) {
				p.mount(path.Clean(at))
				p.add("sandbox.read_only", "%s is in exec", at)
			}
		}
	}
	return p
}

// has reports whether the service sees what stands at a path.
func (p *Proposal) has(at string) bool {
	mounts := slices.Concat(p.Service.Sandbox.ReadOnly, p.Service.Sandbox.Writable)
	return slices.ContainsFunc(mounts, func(m spec.Mount) bool { return spec.IsBelow(at, m.Inside) }) ||
		slices.ContainsFunc(p.Service.Sandbox.Tmpfs, func(folder string) bool { return spec.IsBelow(at, folder) }) ||
		os.Geteuid() == 0 && slices.Contains(p.Service.Directories, ownDirectory(at))
}

// mount shows the program a path of the host's.
func (p *Proposal) mount(at string) {
	m := spec.Mount{Host: at, Inside: at}
	if real, err := filepath.EvalSymlinks(at); err == nil && !strings.Contains(real, ":") {
		m.Host = real
	}
	p.Service.Sandbox.ReadOnly = append(p.Service.Sandbox.ReadOnly, m)
}

// proposeBind has the sockets handed over in answer to the program's own bind, if it binds for itself what its clients
// want, and does not use what it was given. One that failed, and lacks something else, may not have come to that yet.
func (p *Proposal) proposeBind(found []spec.Finding) {
	if p.Service.Handover != spec.FDs || p.Service.Accept {
		return
	}
	var bound []spec.Address
	for _, f := range found {
		if f.Bound != (spec.Address{}) && !slices.Contains(bound, f.Bound) {
			bound = append(bound, f.Bound)
		}
	}
	failed := p.run.Failed && len(p.Why) == 0
	sockets, given := slices.Clone(p.Service.Sockets), 0
	same := setTargets(sockets, bound)
	for i := range sockets {
		if sockets[i].Target != (spec.Address{}) {
			given++
			p.add("service.handover", "it binds %s itself, and gets the socket of %s for it", sockets[i].Target, sockets[i].Address)
		}
	}
	if given > 0 && (same || failed || p.run.Deaf && !p.run.Failed) {
		p.Service.Sockets, p.Service.Handover = sockets, spec.Bind
		for _, s := range sockets {
			if s.Target == (spec.Address{}) {
				p.remark(fmt.Sprintf("it has bound nothing for %s: with handover = \"bind\" it is up when it listens at all of its sockets, so leave away what it does not bind", s.Address))
			}
		}
		return
	}
	delete(p.Why, "service.handover")
	for _, b := range bound {
		p.remark(fmt.Sprintf("it binds %s itself, in its own network, where no client comes", b))
	}
}

// setTargets gives each socket that has no target one of the addresses that a program has bound: first those of its own port
// or path, and then whatever is left. It reports whether there was one of the first kind.
func setTargets(sockets []spec.Socket, bound []spec.Address) (same bool) {
	left := slices.Clone(bound)
	set := func(fits func(b, to spec.Address) bool) (any bool) {
		for i := range sockets {
			to := &sockets[i]
			j := slices.IndexFunc(left, func(b spec.Address) bool { return isAlike(b, to.Address) && fits(b, to.Address) })
			if to.Target == (spec.Address{}) && j >= 0 {
				to.Target, any = to.Address.FindTarget(left[j]), true
				left = slices.Delete(left, j, j+1)
			}
		}
		return any
	}
	same = set(isSame)
	set(func(_, _ spec.Address) bool { return true })
	return same
}

// proposeTargets replaces the targets that the program has not bound by what it has bound instead. One that failed, and
// lacks something else, may only not have come so far.
func (p *Proposal) proposeTargets(found []spec.Finding) {
	if p.Service.Handover != spec.Bind && p.Service.Handover != spec.Proxy || len(p.Service.Sockets) == 0 || p.Why["service.handover"] != nil {
		return
	}
	reached := map[spec.Address]bool{}
	var others []spec.Address
	for _, f := range found {
		i := slices.IndexFunc(p.Service.Sockets, func(s spec.Socket) bool { return isAlike(f.Bound, s.Target) && isSame(f.Bound, s.Target) })
		switch {
		case f.Bound == (spec.Address{}):
		case f.For != (spec.Address{}):
			reached[f.For] = true
		case p.Service.Handover == spec.Proxy && i >= 0:
			reached[p.Service.Sockets[i].Target] = true
		case !slices.Contains(others, f.Bound):
			others = append(others, f.Bound)
		}
	}
	sockets := slices.Clone(p.Service.Sockets)
	for i := range sockets {
		better := slices.ContainsFunc(others, func(b spec.Address) bool { return isAlike(b, sockets[i].Address) && isSame(b, sockets[i].Address) })
		if !reached[sockets[i].Target] || better && !isSame(sockets[i].Target, sockets[i].Address) {
			sockets[i].Target = spec.Address{}
		}
	}
	setTargets(sockets, others)
	early := p.run.Failed && len(p.Why) > 0
	for i, old := range p.Service.Sockets {
		bound := sockets[i].Target
		switch {
		case bound == (spec.Address{}):
			sockets[i].Target = old.Target
		case bound != old.Target && early:
			p.remark(fmt.Sprintf("it has bound %s, and not %s yet, which is the target of %s", bound, old.Target, old.Address))
		case bound != old.Target:
			p.add("socket.target "+old.Address.String(), "it binds %s, and not %s", bound, old.Target)
		}
	}
	if !early {
		p.Service.Sockets = sockets
	}
}

// isAlike reports whether two sockets are of one kind.
func isAlike(a, b spec.Address) bool {
	return a.Type() == b.Type() && (a.Path == "") == (b.Path == "") && a.IsInternet() == b.IsInternet()
}

// isSame reports whether a program that binds a means the clients of b.
func isSame(a, b spec.Address) bool { return a.Port == b.Port && cleanRun(a.Path) == cleanRun(b.Path) }

// openRefused opens what a program was refused that failed, and lacked nothing else: what it went on without is only told, and
// what it needs no key for comes first.
func (p *Proposal) openRefused() {
	failed := p.run.Failed && len(p.Why) == 0
	sealed := slices.DeleteFunc(slices.Clone(p.refused), func(f spec.Finding) bool { return !strings.HasPrefix(f.Line, "seal ") })
	carried := failed && len(sealed) == len(p.refused) && p.mayBeCarried()
	for _, f := range p.refused {
		what, _, _ := strings.Cut(f.Text, ": ")
		switch {
		case carried:
			p.Service.Handover = spec.Proxy
			p.add("service.handover", "it %s, as is every program that has a socket of the host's: this one has none, and clients are carried to it", what)
		case !failed, strings.HasPrefix(f.Line, "seal "):
			p.remark("it " + f.Text)
		default:
			p.add("sandbox."+p.openLine(f.Line), "it %s", what)
		}
	}
}

// openLine writes a line of [sandbox], and returns its key.
func (p *Proposal) openLine(line string) (key string) {
	s := &p.Service.Sandbox
	key, value, _ := strings.Cut(line, " = ")
	switch value = strings.Trim(value, `[]"`); {
	case key == "connect" && s.Connect != "any":
		s.Connect = value
	case key == "syscalls":
		s.Syscalls = value
	case key == "capabilities" && !slices.Contains(s.Capabilities, value):
		s.Capabilities = append(slices.Clone(s.Capabilities), value)
	}
	return key
}

// mayBeCarried reports whether clients can be carried to the program.
func (p *Proposal) mayBeCarried() bool {
	return !p.Service.Accept && p.Service.Sandbox.OwnNetwork() && (p.Service.Handover == spec.FDs || p.Service.Handover == spec.Bind) &&
		!slices.ContainsFunc(p.Service.Sockets, func(s spec.Socket) bool { return !s.Address.IsInternet() && s.Address.Network != spec.Unix })
}

// addID gives the program the user that it wants to be, where that can be had.
func (p *Proposal) addID(f spec.Finding) {
	kind, id, _ := strings.Cut(f.ID, " ")
	name := id
	if known, err := user.LookupId(id); kind == "user" && err == nil {
		name = known.Username
	}
	owner := name
	if kind == "group" {
		owner, name = nameGroup(id), cmp.Or(nameGroup(id), id)
	}
	if id != "0" && p.giveUser(owner, "it wants to be %s %s, or to give files to it: inside there is one only", kind, name) {
		return
	}
	seen := ""
	if os.Geteuid() == 0 {
		seen = fmt.Sprintf("; or, if it only gives it files in its own directories, write %ss = [%q] below [sandbox]", kind, name)
	}
	p.remark(fmt.Sprintf("it wants to be %s %s, or to give files to it: inside there is one only; have it stay what it is, by its own configuration%s", kind, name, seen))
}

// nameGroup is the name of a group; "": it has none.
func nameGroup(id string) string {
	if known, err := user.LookupGroupId(id); err == nil {
		return known.Name
	}
	return ""
}

// giveUser gives a program that failed a user, if it can have that one. A group is its user's, where both have one name: a
// program takes the group first. What is written already stays.
func (p *Proposal) giveUser(name, format string, args ...any) bool {
	known, err := user.Lookup(name)
	if _, isNumber := strconv.Atoi(name); name == "" || name == "root" || err != nil && isNumber != nil || err == nil && known.Uid == "0" {
		return false
	}
	if !p.run.Failed || os.Geteuid() != 0 || p.Service.User != "" && p.Service.User != name || p.Why["service.user"] == nil && p.Service.User != "" {
		return false
	}
	p.Service.User = name
	p.add("service.user", format, args...)
	return true
}
