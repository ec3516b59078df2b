package advice

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"activator/internal/spec"
)

// harmless are paths that programs look for and do without, and what is a sandbox's own.
var harmless = newPattern(`^(/run/(nscd|userdb|systemd|dbus|resolvconf|user|udev|mount|utmp|\.containerenv)|/var/lib/(sss|dbus|locales)|/var/cache/(nscd|ldconfig|fontconfig)|/var/db|/selinux|/initrd|/\.dockerenv|` +
	`/sys/(fs|kernel|module|firmware|devices/system/(cpu|node|memory)|class/tty)|/root/\.[^/]*|/home/[^/]+/\.[^/]*|.*/__pycache__)(/|$)`)

// broad are folders that hold what is everybody's: a program that looks at one is on its way to another path.
var broad = newPattern(`^(/[^/]*|/home/[^/]*|/var/[^/]*)$`)

// addPath says what to write for a path that the program does not get at.
func (p *Proposal) addPath(f spec.Finding) {
	at := cleanRun(f.Path)
	if f.Errno == 0 {
		p.addMade(at)
		return
	}
	if m, found := p.findReadOnly(at); found && f.Errno == syscall.EROFS && f.Want&(spec.Write|spec.Make) != 0 {
		p.makeWritable(m, at)
		return
	}
	if harmless.MatchString(at) || f.Errno != syscall.EACCES && (p.has(at) || p.isOnTheWay(at, f.Want)) {
		return
	}
	if strings.Contains(at, ":") {
		p.remark(fmt.Sprintf("it looks for %s: a path with a colon cannot be mounted", at))
		return
	}
	own, writes := ownDirectory(at), f.Want&spec.Make != 0 || f.Want&spec.Write != 0 && f.Errno != syscall.ENOENT
	_, err := os.Stat(at)
	switch {
	case f.Errno == syscall.EACCES && p.giveUser(ownerOf(at), "its user has no right to %s", at):
	case f.Errno == syscall.EACCES && own.Kind != "" && p.has(folderOf(own)):
		p.remark(noRight(at))
	case own.Kind != "" && (writes || p.run.Failed && os.Geteuid() == 0 && at == folderOf(own) && isFolder(at)):
		p.addOwn(own, at)
	case own.Kind != "" && at == folderOf(own):
		p.homes = append(p.homes, own)
	case f.Errno == syscall.EACCES:
		p.remark(noRight(at))
	case writes && path.Dir(at) == "/":
		p.moveFromRoot(at)
	case shown.MatchString(at):
	case writes, err == nil && f.Want&spec.Write != 0:
		p.addWritable(at)
	case err == nil && spec.IsBelow(at, "/sys"):
		p.system = at
	case err == nil:
		p.files = append(p.files, at)
		p.listed[at] = f.Want&spec.Read != 0 && isFolder(at)
	}
}

// isOnTheWay reports whether the program only looks at what is everybody's, on its way to something else.
func (p *Proposal) isOnTheWay(at string, want spec.Access) bool {
	makes := want&spec.Make != 0 || at == "/" && want&spec.Write != 0 && p.run.Failed
	return broad.MatchString(at) && !makes && !isFile(at) && at != "/sys"
}

// addMade says what becomes of what the program has made.
func (p *Proposal) addMade(at string) {
	if d := ownDirectory(at); d.Kind == "state" && !p.has(at) {
		p.remark(fmt.Sprintf("it keeps things in %s, which are gone after each run: %s", folderOf(d), keepLine(d)))
	}
}

// keepLine is what to write for what a program keeps.
func keepLine(d spec.Directory) string {
	if os.Geteuid() == 0 {
		return fmt.Sprintf("write %s_directory = %q below [service] to have them stay", d.Kind, d.Name)
	}
	return fmt.Sprintf("write writable = [\"FOLDER:%s\"] below [sandbox], with a folder of yours, to have them stay", folderOf(d))
}

func isFile(at string) bool {
	info, err := os.Stat(at)
	return err == nil && !info.IsDir()
}

func isFolder(at string) bool {
	info, err := os.Stat(at)
	return err == nil && info.IsDir()
}

func ownFolder(kind string) string {
	i := slices.IndexFunc(ownFolders, func(own [2]string) bool { return own[1] == kind })
	return ownFolders[i][0]
}

// folderOf is where programs look for a directory.
func folderOf(d spec.Directory) string { return path.Join(ownFolder(d.Kind), d.Name) }

// addOwn gives the program a folder that it keeps its own things in: as root by its name, unless a program of the host's has
// things there; another user's are elsewhere, and such a program knows that place only.
func (p *Proposal) addOwn(d spec.Directory, at string) {
	folder := folderOf(d)
	p.owned = append(p.owned, d.Name)
	owner := ""
	if os.Geteuid() == 0 {
		owner = otherOwner(folder)
	}
	switch {
	case p.has(folder):
	case os.Geteuid() == 0 && (owner == "" || owner == p.Service.User || d.Kind == "state" && p.giveUser(owner, "it wants %s, where that user has things", at)):
		p.Service.Directories = append(slices.Clone(p.Service.Directories), d)
		p.add("service."+d.Kind+"_directory", "it wants %s: the host's %s, with what is in it, is its own then", at, folder)
	default:
		p.Service.Sandbox.Tmpfs = append(slices.Clone(p.Service.Sandbox.Tmpfs), folder)
		p.add("sandbox.tmpfs", "it wants %s, and what it keeps there is gone after each run: for what stays write writable = [\"FOLDER:%s\"] instead, with a folder of yours", at, folder)
	}
}

// findReadOnly returns what shows the program a path, and lets it only read there.
func (p *Proposal) findReadOnly(at string) (m spec.Mount, found bool) {
	for _, other := range p.Service.Sandbox.ReadOnly {
		if spec.IsBelow(at, other.Inside) && len(other.Inside) >= len(m.Inside) {
			m, found = other, true
		}
	}
	return m, found
}

// makeWritable has the program write to the folder that a path is in, of which m lets it only read.
func (p *Proposal) makeWritable(m spec.Mount, at string) {
	inside := at
	if !isFolder(path.Join(m.Host, strings.TrimPrefix(at, m.Inside))) {
		inside = path.Dir(at)
	}
	host := path.Join(m.Host, strings.TrimPrefix(inside, m.Inside))
	if !spec.IsBelow(inside, m.Inside) { // a file that is mounted by itself
		inside, host = m.Inside, m.Host
	}
	p.showWritable(spec.Mount{Host: host, Inside: inside}, at)
}

// addWritable has the program write to the host's folder that a path is in.
func (p *Proposal) addWritable(at string) {
	folder := path.Dir(at)
	if !isFolder(folder) {
		p.remark(fmt.Sprintf("it wants to write %s: %s", at, elsewhere))
		return
	}
	p.showWritable(spec.Mount{Host: folder, Inside: folder}, at)
}

// showWritable has the program write to a mount for a path in it, instead of reading there only. What is everybody's on the
// host is no proposal.
func (p *Proposal) showWritable(w spec.Mount, at string) {
	if broad.MatchString(w.Host) {
		p.remark(fmt.Sprintf("it wants to write %s: %s", at, elsewhere))
		return
	}
	s := &p.Service.Sandbox
	s.ReadOnly = slices.DeleteFunc(s.ReadOnly, func(m spec.Mount) bool { return spec.IsBelow(m.Inside, w.Inside) })
	if !slices.Contains(s.Writable, w) {
		s.Writable = append(slices.Clone(s.Writable), w)
	}
	p.add("sandbox.writable", "it wants to write %s", at)
}

// mostFiles is how many files of one folder are mounted one by one.
const mostFiles = 3

// isProgramFolder reports whether a file that the arguments name is in a folder: what else the program reads there it will
// miss one by one.
func (p *Proposal) isProgramFolder(folder string) bool {
	return slices.ContainsFunc(p.Service.Argv[min(1, len(p.Service.Argv)):], func(argument string) bool {
		return path.IsAbs(argument) && path.Dir(argument) == folder && isFile(argument)
	})
}

// mountFiles mounts what the program looked for: a folder where it looked for many things in it, or for one beside its own
// file, and nothing that it only went through.
func (p *Proposal) mountFiles() {
	slices.Sort(p.files)
	p.files = slices.Compact(p.files)
	for gathered := true; gathered; {
		gathered = false
		in := map[string]int{}
		for _, at := range p.files {
			if folder := path.Dir(at); isFile(at) || !p.isProgramFolder(folder) {
				in[folder]++
			}
		}
		for folder, n := range in {
			if (n > mostFiles || p.isProgramFolder(folder)) && !broad.MatchString(folder) {
				p.files = append(slices.DeleteFunc(p.files, func(at string) bool { return spec.IsBelow(at, folder) }), folder)
				gathered = true
				break
			}
		}
	}
	slices.Sort(p.files)
	for i, at := range p.files {
		through := isFolder(at) && !p.listed[at] && slices.ContainsFunc(p.files[i+1:], func(other string) bool { return spec.IsBelow(other, at) })
		if !through && !p.has(at) {
			p.mount(at)
			p.add("sandbox.read_only", "it looks for %s", at)
		}
	}
	p.mountSystem()
}

// mountSystem shows /sys to a program that fails, and lacks nothing else: many look there for what they do without.
func (p *Proposal) mountSystem() {
	switch {
	case p.system == "":
	case p.run.Failed && len(p.Why) == 0:
		p.mount("/sys")
		p.add("sandbox.read_only", "it looks for %s", p.system)
	default:
		p.remark(fmt.Sprintf("it looks for %s: read_only = [\"/sys\"] below [sandbox] shows it, with the names of the host's interfaces", p.system))
	}
}

// addHome gives a program that fails, and lacks nothing else, the directory that it looked for and nobody has made: many look
// for one and do without.
func (p *Proposal) addHome() {
	if len(p.homes) > 0 && p.run.Failed && len(p.Why) == 0 {
		p.addOwn(p.homes[0], folderOf(p.homes[0]))
	}
	if p.run.Failed {
		p.addSiblings()
	}
}

// addSiblings gives a program that failed for one of its folders an empty one for each of those that the host has by the same
// name, and that nothing is lost by: it will look for them next.
func (p *Proposal) addSiblings() {
	for _, name := range p.owned {
		for _, kind := range []string{"cache", "logs"} {
			if folder := folderOf(spec.Directory{Kind: kind, Name: name}); isFolder(folder) && !p.has(folder) {
				p.Service.Sandbox.Tmpfs = append(slices.Clone(p.Service.Sandbox.Tmpfs), folder)
				p.add("sandbox.tmpfs", "the host has %s too; here it is empty for each run", folder)
			}
		}
	}
}

// moveFromRoot has a program that writes where it stands stand elsewhere: it begins in /, which is read-only.
func (p *Proposal) moveFromRoot(at string) {
	s := &p.Service
	if s.Dir != "/" || strings.HasPrefix(path.Base(at), ".") || os.Geteuid() == 0 && !ownName.MatchString(s.Name) {
		return
	}
	if os.Geteuid() != 0 {
		s.Dir = "/tmp"
		p.add("service.working_directory", "it writes %s, where it stands; what it keeps in /tmp is gone after each run", at)
		return
	}
	home := spec.Directory{Kind: "state", Name: s.Name}
	s.Dir = folderOf(home)
	p.add("service.working_directory", "it writes %s, where it stands", at)
	p.addOwn(home, s.Dir)
}
