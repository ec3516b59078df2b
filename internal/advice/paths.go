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
var harmless = newPattern(`^(/run/(nscd|systemd|dbus|resolvconf|user|udev|mount|utmp|\.containerenv)|/var/lib/(sss|dbus|locales)|/var/cache/(nscd|ldconfig|fontconfig)|/var/db|/selinux|/initrd|/\.dockerenv|` +
	`/sys/(fs|kernel|module|firmware|devices/system/(cpu|node|memory)|class/tty)|/root/\.[^/]*|/home/[^/]+/\.[^/]*)(/|$)`)

// broad are folders that hold what is everybody's: a program that looks at one is on its way to another path.
var broad = newPattern(`^(/[^/]*|/home/[^/]*|/var/[^/]*)$`)

// addPath says what to write for a path that the program does not get at.
func (p *Proposal) addPath(f spec.Finding) {
	at := cleanRun(f.Path)
	if f.Errno == 0 {
		p.addMade(at)
		return
	}
	if harmless.MatchString(at) || f.Errno != syscall.EACCES && (p.has(at) || broad.MatchString(at) && !isFile(at) && at != "/sys") {
		return
	}
	if strings.Contains(at, ":") {
		p.remark(fmt.Sprintf("it looks for %s: a path with a colon cannot be mounted", at))
		return
	}
	own, writes := ownDirectory(at), f.Want&spec.Make != 0 || f.Want&spec.Write != 0 && f.Errno != syscall.ENOENT
	_, err := os.Stat(at)
	switch {
	case own.Kind != "" && (writes || os.Geteuid() == 0 && isFolder(path.Join(ownFolder(own.Kind), own.Name))):
		p.addOwn(own, at)
	case f.Errno == syscall.EACCES:
		p.remark(noRight(at))
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

// addMade says what becomes of what the program has made.
func (p *Proposal) addMade(at string) {
	if d := ownDirectory(at); d.Kind == "state" && !p.has(at) {
		p.remark(fmt.Sprintf("it keeps things in %s, which are gone after each run: %s", path.Join(ownFolder(d.Kind), d.Name), keepLine(d)))
	}
}

// keepLine is what to write for what a program keeps.
func keepLine(d spec.Directory) string {
	if os.Geteuid() == 0 {
		return fmt.Sprintf("write %s_directory = %q below [service] to have them stay", d.Kind, d.Name)
	}
	return fmt.Sprintf("write writable = [\"FOLDER:%s\"] below [sandbox], with a folder of yours, to have them stay", path.Join(ownFolder(d.Kind), d.Name))
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

// addOwn gives the program a folder that it keeps its own things in: as root by its name; another user's are elsewhere, and
// such a program knows that place only.
func (p *Proposal) addOwn(d spec.Directory, at string) {
	folder := path.Join(ownFolder(d.Kind), d.Name)
	switch {
	case p.has(folder):
	case os.Geteuid() == 0:
		p.Service.Directories = append(slices.Clone(p.Service.Directories), d)
		p.add("service."+d.Kind+"_directory", "it wants %s: the host's %s is its own then", at, folder)
	default:
		p.Service.Sandbox.Tmpfs = append(slices.Clone(p.Service.Sandbox.Tmpfs), folder)
		p.add("sandbox.tmpfs", "it wants %s, and what it keeps there is gone after each run: for what stays write writable = [\"FOLDER:%s\"] instead, with a folder of yours", at, folder)
	}
}

// addWritable has the program write to the host's folder that a path is in.
func (p *Proposal) addWritable(at string) {
	folder := path.Dir(at)
	if broad.MatchString(folder) || !isFolder(folder) {
		p.remark(fmt.Sprintf("it wants to write %s: %s", at, elsewhere))
		return
	}
	s := &p.Service.Sandbox
	s.ReadOnly = slices.DeleteFunc(s.ReadOnly, func(m spec.Mount) bool { return spec.IsBelow(m.Inside, folder) })
	s.Writable = append(slices.Clone(s.Writable), spec.Mount{Host: folder, Inside: folder})
	p.add("sandbox.writable", "it wants to write %s", at)
}

// mostFiles is how many files of one folder are mounted one by one.
const mostFiles = 3

// mountFiles mounts what the program looked for: a folder where it looked for many things in it, and nothing that it only
// went through.
func (p *Proposal) mountFiles() {
	slices.Sort(p.files)
	p.files = slices.Compact(p.files)
	for gathered := true; gathered; {
		gathered = false
		in := map[string]int{}
		for _, at := range p.files {
			in[path.Dir(at)]++
		}
		for folder, n := range in {
			if n > mostFiles && !broad.MatchString(folder) {
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
