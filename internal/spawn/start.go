package spawn

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/fdpass"
	"activator/internal/sandbox"
)

// Stdio is what the program has as 0, 1 and 2; nil is /dev/null.
type Stdio struct {
	In, Out, Err *os.File
}

// NotifyPath is where the notification socket stands in a sandbox.
const NotifyPath = "/run/.notify"

// Prepare starts the second stage and returns when everything is built that can
// be built before the first client is there; the process may stay like this for
// as long as nobody comes. It lends stdio and sockets, until it returns. What the host
// or the kernel refuses comes back as *StageError.
func (s *Starter) Prepare(ctx context.Context, spec Spec, stdio Stdio, sockets []*os.File) (*Process, error) {
	sockets = spec.Handed.place(&stdio, sockets)
	b, err := s.begin(&spec, len(sockets))
	if err != nil {
		return nil, err
	}
	defer b.closeLent()
	p, err := b.start(stdio, sockets)
	if err != nil {
		b.abandon()
		return nil, err
	}
	// Before the plan is told: meanwhile the stage's runtime comes up.
	if err = s.guard.hold(p); err == nil {
		err = p.ready(ctx, &b.plan)
	}
	if err != nil {
		p.Kill()
		_, _ = p.Wait()
		_ = p.Close()
		return nil, err
	}
	return p, nil
}

// birth is a process on its way from specification to stage.
type birth struct {
	starter *Starter
	spec    *Spec
	id      identity
	plan    plan
	trees   []int // ours, closed when the stage has its copies
	notify  *notifySocket
	folders []string // runtime directories held
	taken   taken    // from the host
}

// begin does what is done before the clone.
func (s *Starter) begin(spec *Spec, sockets int) (*birth, error) {
	b := &birth{starter: s, spec: spec}
	if len(spec.Argv) == 0 {
		return nil, &StageError{Step: "exec", Cure: "no program given"}
	}
	var err error
	if b.id, err = spec.identify(); err != nil {
		return nil, err
	}
	mounts, env, err := b.directories()
	if err == nil {
		b.plan = plan{Argv: spec.Argv, Env: b.id.environ(slices.Concat(fdpass.Strip(spec.Env), env)), Dir: spec.Dir, Umask: spec.Umask,
			Limits: spec.limits(), FDNames: spec.FDNames, Sockets: sockets, Handed: spec.Handed, Init: spec.Sandbox.Init}
		err = b.shutIn(mounts)
	}
	if err == nil && spec.Notify {
		err = b.openNotify()
	}
	if err != nil {
		b.closeLent()
		b.abandon()
		return nil, err
	}
	return b, nil
}

// shutIn resolves the sandbox and, as root, opens what it mounts with our eyes.
func (b *birth) shutIn(directories []sandbox.Mount) error {
	if b.spec.Bare {
		return nil
	}
	if b.spec.Waits {
		b.taken.from(b)
	}
	var err error
	b.spec.Sandbox.Notify = b.spec.Notify
	b.spec.Sandbox.Cores = slices.ContainsFunc(b.spec.Limits, func(l Limit) bool { return l.Resource == "core" })
	b.plan.Sandbox, err = b.spec.Sandbox.Resolve(b.spec.Name, b.spec.Argv[0], directories)
	if err == nil && b.spec.Waits {
		b.taken.sources(b.plan.Sandbox)
	}
	if err != nil || !b.id.change {
		return err
	}
	b.trees, err = b.plan.Sandbox.OpenTrees()
	var refused *StageError
	if errors.As(err, &refused) && refused.Errno == unix.EPERM {
		return nil // a root that may not mount: the stage may, in its namespace
	}
	return err
}

func (b *birth) openNotify() error {
	var err error
	if b.notify, err = newNotifySocket(b.spec.Bare, b.id); err != nil {
		return err
	}
	b.plan.NotifyPath = NotifyPath
	if b.spec.Bare {
		b.plan.NotifyPath = b.notify.path
	}
	return nil
}

// start clones, on the starter's thread. The stage's fds: 0..2, the sockets from
// 3 on where the program wants them, the control socket, and what it only needs
// to build.
func (b *birth) start(stdio Stdio, sockets []*os.File) (*Process, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, &StageError{Step: "start", Errno: errnoOf(err), Cure: "socketpair"}
	}
	ours, theirs := pair[0], pair[1]
	defer func() { _ = unix.Close(theirs) }()
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		_ = unix.Close(ours)
		return nil, &StageError{Step: "start", Path: "/dev/null", Errno: errnoOf(err)}
	}
	defer func() { _ = unix.Close(null) }()
	b.own(stdio)

	files := make([]uintptr, 0, 8+len(sockets)+len(b.trees))
	for _, f := range []*os.File{stdio.In, stdio.Out, stdio.Err} {
		files = append(files, lent(f, null))
	}
	for _, f := range sockets {
		files = append(files, lent(f, null))
	}
	control := len(files)
	files = append(files, uintptr(theirs))
	for _, tree := range b.trees {
		if tree < 0 {
			b.plan.Trees = append(b.plan.Trees, -1)
			continue
		}
		b.plan.Trees = append(b.plan.Trees, len(files))
		files = append(files, uintptr(tree))
	}
	if b.notify != nil && !b.spec.Bare {
		b.plan.Notify = len(files)
		files = append(files, lent(b.notify.file, null))
	}
	pid, pidfd, err := b.clone(control, files)
	if err != nil {
		_ = unix.Close(ours)
		return nil, err
	}
	return b.adopt(pid, pidfd, ours)
}

// own gives pipes to the service's user: programs that log to /dev/stdout open it
// anew, and a pipe is its maker's, 0600. What is refused is left to the program.
func (b *birth) own(stdio Stdio) {
	if !b.id.change {
		return
	}
	for _, f := range []*os.File{stdio.In, stdio.Out, stdio.Err} {
		fd := lent(f, -1)
		var stat unix.Stat_t
		if f != nil && unix.Fstat(int(fd), &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFIFO {
			_ = unix.Fchown(int(fd), b.id.uid, b.id.gid)
		}
	}
}

func (b *birth) clone(control int, files []uintptr) (pid, pidfd int, err error) {
	attr := &syscall.ProcAttr{Env: stageEnv(), Files: files, Sys: b.attributes()}
	pidfd = -1
	attr.Sys.PidFD = &pidfd
	argv := []string{StageName, strconv.Itoa(control)}
	closed := b.starter.do(func() {
		leave, joinErr := sandbox.Join(b.network())
		if joinErr != nil {
			err = joinErr
			return
		}
		pid, _, err = syscall.StartProcess("/proc/self/exe", argv, attr)
		if leaveErr := leave(); leaveErr != nil && err == nil {
			// This thread would start every later child in a foreign network.
			panic(leaveErr)
		}
		if err != nil {
			err = sandbox.CloneError(errnoOf(err))
		}
	})
	if closed != nil {
		return 0, -1, closed
	}
	return pid, pidfd, err
}

func (b *birth) network() string {
	if b.spec.Bare {
		return ""
	}
	return b.spec.Sandbox.Network
}

// attributes is the kernel's half: namespaces, ids, and that the process dies
// with our thread.
func (b *birth) attributes() *syscall.SysProcAttr {
	sys := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	if b.id.change {
		sys.Credential = &syscall.Credential{Uid: uint32(b.id.uid), Gid: uint32(b.id.gid)}
		for _, gid := range b.id.groups {
			sys.Credential.Groups = append(sys.Credential.Groups, uint32(gid))
		}
	}
	if b.spec.Bare {
		return sys
	}
	sys.Cloneflags = b.spec.Sandbox.Clone()
	sys.AmbientCaps = b.plan.Sandbox.Ambient()
	uid, gid := b.id.host()
	sys.UidMappings = []syscall.SysProcIDMap{{ContainerID: b.id.uid, HostID: uid, Size: 1}}
	sys.GidMappings = []syscall.SysProcIDMap{{ContainerID: b.id.gid, HostID: gid, Size: 1}}
	for _, gid := range b.id.groups {
		if gid != b.id.gid {
			sys.GidMappings = append(sys.GidMappings, syscall.SysProcIDMap{ContainerID: gid, HostID: gid, Size: 1})
		}
	}
	sys.GidMappingsEnableSetgroups = b.id.change
	return sys
}

// closeLent closes what only the stage needed, once it has its copies.
func (b *birth) closeLent() {
	sandbox.CloseTrees(b.trees)
	b.trees = nil
}

// abandon gives up what the process would have owned.
func (b *birth) abandon() {
	if b.notify != nil {
		b.notify.close()
	}
	b.starter.runtime.release(b.folders)
}

// stageEnv is the stage's own environment, not the program's. It lives for
// milliseconds on one thread: no garbage collection, and no second processor,
// which costs the runtime 0.2 ms to set up.
func stageEnv() []string {
	env := []string{"GOGC=off", "GOMAXPROCS=1"}
	if race, ok := os.LookupEnv("GORACE"); ok {
		env = append(env, "GORACE="+race)
	}
	return env
}

// lent is the descriptor of f, which its owner keeps open until we return.
func lent(f *os.File, null int) uintptr {
	fd := uintptr(null)
	if f == nil {
		return fd
	}
	conn, err := f.SyscallConn()
	if err == nil {
		_ = conn.Control(func(raw uintptr) { fd = raw })
	}
	return fd
}

func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return syscall.EIO
}

// notifySocket is our end of NOTIFY_SOCKET.
type notifySocket struct {
	file   *os.File
	path   string // on the host; "" when the stage binds it inside
	folder string // private, removed with it
}

// newNotifySocket makes the socket services report to. A sandbox's stage binds
// it to a name inside: the socket itself stays ours, and no path appears on the
// host. Without a sandbox it gets a folder that only the service's user can enter.
func newNotifySocket(bare bool, id identity) (*notifySocket, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, &StageError{Step: "notify", Errno: errnoOf(err)}
	}
	n := &notifySocket{file: os.NewFile(uintptr(fd), "notify")}
	// Before bind: the first message already tells who sent it.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		n.close()
		return nil, &StageError{Step: "notify", Errno: errnoOf(err)}
	}
	if !bare {
		return n, nil
	}
	if n.folder, err = os.MkdirTemp("", "activator-notify-"); err == nil && id.change {
		err = os.Chown(n.folder, id.uid, id.gid)
	}
	if err == nil {
		n.path = filepath.Join(n.folder, "notify")
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: n.path})
	}
	if err == nil && id.change {
		err = os.Chown(n.path, id.uid, id.gid)
	}
	if err != nil {
		n.close()
		return nil, &StageError{Step: "notify", Path: n.path, Errno: errnoOf(err)}
	}
	return n, nil
}

func (n *notifySocket) close() {
	if n.file != nil {
		_ = n.file.Close()
	}
	n.unlink()
}

func (n *notifySocket) unlink() {
	if n.folder != "" {
		_ = os.RemoveAll(n.folder)
	}
}
