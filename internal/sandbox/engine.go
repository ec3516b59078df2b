package sandbox

import (
	"strconv"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/process/vfork"
	"activator/internal/sandbox/seccomp"
	"activator/internal/spec"
)

// Engine says what a container engine is put behind, and with it everything that
// it starts: its monitor, its runtime and the container. An engine makes namespaces and
// mounts, so nothing but its sockets is taken from it.
type Engine struct {
	Seal     bool // sockets that the container inherits cannot be turned outward
	Names    bool // with Seal: abstract unix names may be sent to
	Internet bool // the container may make internet sockets; the engine itself never
	Withhold bool // with Seal: a supervisor sets what is withheld from listeners, see [spec.Sandbox]
	NewPrivs bool // leave no_new_privs alone

	// Sources are paths of the host's, without a link, that the engine finds as 0, 1, 2, ...
	// in Folder, an empty one, whatever becomes of the paths meanwhile.
	Sources []string
	Folder  string

	// Cgroup2 shows it the unified hierarchy alone: runtimes refuse a host that has
	// controllers in both versions ("hybrid").
	Cgroup2 bool
}

// EnginePlan is an [Engine] resolved against the running host.
type EnginePlan struct {
	engine   Engine
	sources  []rootEntry
	filter   []byte
	landlock landlockRules
}

// NewPlan looks at the host.
func (e Engine) NewPlan() *EnginePlan {
	abi := landlockABI()
	p := &EnginePlan{engine: e}
	for _, source := range e.Sources {
		p.sources = append(p.sources, rootEntry{Kind: entryWritable, Source: source, real: source, folder: isFolder(source)})
	}
	p.filter = seccomp.NewEngineProfile(e.Seal, e.Internet, e.Withhold, abi >= abiTCP).Filter()
	p.landlock = chooseLandlock(spec.Sandbox{Seal: e.Seal, Names: e.Names, Syscalls: "any"}, abi, nil)
	return p
}

// isFolder looks at what stands at a path without a link. What is wrong with it the child is told.
func isFolder(path string) bool {
	source, err := fd.OpenLinkless(path, unix.O_PATH)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(source) }()
	var stat unix.Stat_t
	return unix.Fstat(source, &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFDIR
}

// Build adds to s what takes the child to where the engine works. process is a
// descriptor of a process whose user and mount namespace it enters, -1: it stays in ours.
func (p *EnginePlan) Build(s *vfork.CallList, process int) {
	b := builder{CallList: s}
	if process >= 0 {
		b.setStep("user namespace", "")
		b.Do(unix.SYS_SETNS, uintptr(process), unix.CLONE_NEWUSER|unix.CLONE_NEWNS)
	}
	if len(p.sources) == 0 && !p.engine.Cgroup2 {
		return
	}
	b.setStep("clone", "")
	b.Do(unix.SYS_UNSHARE, unix.CLONE_NEWNS|unix.CLONE_NEWCGROUP)
	// The host's later mounts come in, ours do not go out.
	b.setStep("private", "/")
	b.addMount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "")
	if p.engine.Cgroup2 {
		const groups = "/sys/fs/cgroup"
		b.setStep("mount", groups)
		// Where the engine's own process was started from a container of ours, as when it has lost
		// the one before, the same stands there already.
		b.addMount("cgroup2", groups, "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "").IgnoreErrors(unix.EBUSY)
	}
	b.putSources(p)
}

// putSources mounts the sources in their folder.
func (b *builder) putSources(p *EnginePlan) {
	if len(p.sources) == 0 {
		return
	}
	b.setStep("mount", p.engine.Folder)
	b.addMount("activator", p.engine.Folder, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700")
	for i, source := range p.sources {
		path := p.engine.Source(i)
		b.createPoint(path, source.folder)
		b.setStep("open", source.Source)
		tree := b.openTree(source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		b.setStep("mount", path)
		b.moveMount(tree, path, unix.MOVE_MOUNT_F_EMPTY_PATH)
		b.CloseFrom(tree)
	}
}

// Source is where the engine finds a source.
func (e Engine) Source(i int) string { return e.Folder + "/" + strconv.Itoa(i) }

// Confine adds to s what takes the sockets from the child, and from all that comes of it. It returns
// the descriptor on which a supervisor answers, which the call list closes.
func (p *EnginePlan) Confine(s *vfork.CallList) (listener int) {
	b := &builder{CallList: s}
	if !p.engine.NewPrivs {
		b.setStep("no_new_privileges", "")
		b.Do(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	p.landlock.addRestriction(b)
	return b.loadFilter(&Plan{filter: p.filter, Listener: true})
}
