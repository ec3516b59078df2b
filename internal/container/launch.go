package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/spec"
)

// The launcher is this program three times: outside the namespaces, inside
// before the user namespace has its ids (execve then makes us root in it), and
// as the first process inside.
const (
	self        = "/proc/self/exe"
	stageLaunch = "container-launch"
	stageMap    = "container-map"
	stageInit   = "container-init"

	exitLauncher = 125 // as podman's own for "not even started"
)

// plan is what the launcher is told, as JSON in argv[2].
type plan struct {
	Engine    []string // the engine and its global options
	Run       []string // "run" and its options
	Image     []string // the image and the command
	Inherited []string // limits that are set to the launcher's own
	Store     Store    // Root "": no private house, for questions to the engine
	Sources   []string // paths without links, to be mounted in the house in this order
	UID, GID  int      // outside; filled in by the launcher
}

// IsStage reports whether this process is a stage of the launcher.
func IsStage() bool {
	return len(os.Args) == 3 && slices.Contains([]string{stageLaunch, stageMap, stageInit}, os.Args[1])
}

// Stage is the launcher. It never returns. A message about what went wrong goes
// to stderr, which is the service's.
func Stage() {
	var p plan
	err := json.Unmarshal([]byte(os.Args[2]), &p)
	code := exitLauncher
	if err == nil {
		switch os.Args[1] {
		case stageLaunch:
			code, err = p.launch()
		case stageMap:
			err = p.awaitIDs()
		case stageInit:
			code, err = p.init()
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "container: %v\n", err)
		code = exitLauncher
	}
	os.Exit(code)
}

// launch starts the first process inside, passes on signals and ends as it
// does. It holds the write end of a pipe, the lifeline: when that is closed,
// also by SIGKILL, the first process ends, and with it everything inside.
func (p *plan) launch() (int, error) {
	p.UID, p.GID = os.Getuid(), os.Getgid()
	text, err := json.Marshal(p)
	if err != nil {
		return 0, err
	}
	var lifeline [2]int
	if err := unix.Pipe2(lifeline[:], unix.O_CLOEXEC); err != nil {
		return 0, os.NewSyscallError("pipe2", err)
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	stage := stageInit
	attr := &syscall.ProcAttr{Env: os.Environ(), Files: append(handedOver(), uintptr(lifeline[0])), Sys: &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP,
		Pdeathsig:  syscall.SIGKILL,
	}}
	if p.UID != 0 {
		stage = stageMap
		attr.Sys.Cloneflags |= unix.CLONE_NEWUSER
	}
	runtime.LockOSThread() // its death is what Pdeathsig waits for; it ends with us
	pid, err := syscall.ForkExec(self, []string{self, stage, string(text)}, attr)
	if err != nil {
		return 0, fmt.Errorf("new namespaces: %w%s", os.NewSyscallError("clone", err), cureClone(err))
	}
	_ = unix.Close(lifeline[0])
	closeSockets()
	if p.UID != 0 {
		if err := mapIDs(pid, p.UID, p.GID); err != nil {
			_ = unix.Kill(pid, unix.SIGKILL)
			return 0, err
		}
		if _, err := unix.Write(lifeline[1], []byte{1}); err != nil {
			return 0, os.NewSyscallError("write", err)
		}
	}
	go forward(signals, pid)
	return reap(pid)
}

func cureClone(err error) string {
	switch {
	case errors.Is(err, unix.EPERM):
		return ": root needs CAP_SYS_ADMIN here, a user needs user namespaces (`activator doctor` says more)"
	case errors.Is(err, unix.ENOSPC):
		return ": user namespaces are used up or turned off: sysctl user.max_user_namespaces"
	}
	return ""
}

// handedOver are the descriptors that go on: 0 to 2 and the sockets.
func handedOver() []uintptr {
	files := []uintptr{0, 1, 2}
	for fd := 3; fd < 3+sockets(); fd++ {
		files = append(files, uintptr(fd))
	}
	return files
}

// closeSockets closes what was handed over. The engine and its monitor keep
// theirs for as long as the container runs.
func closeSockets() {
	for fd := 3; fd < 3+sockets(); fd++ {
		_ = unix.Close(fd)
	}
}

// sockets is how many we hand over; LISTEN_FDS is ours alone, spawn sets it.
func sockets() int {
	n, _ := strconv.Atoi(os.Getenv("LISTEN_FDS")) // unset: 0
	return n
}

// lifelineFD is the lifeline's number inside.
func lifelineFD() int { return 3 + sockets() }

// awaitIDs waits until the user namespace has its ids. Its user 0 gets the
// namespace's capabilities by execve, user_namespaces(7).
func (p *plan) awaitIDs() error {
	var word [1]byte
	n, err := readRetry(lifelineFD(), word[:])
	if err != nil {
		return os.NewSyscallError("read", err)
	}
	if n == 0 {
		return errors.New("the launcher is gone")
	}
	argv := []string{self, stageInit, os.Args[2]}
	return &os.PathError{Op: "exec", Path: self, Err: unix.Exec(self, argv, os.Environ())}
}

// init is the first process inside: it builds the house, starts the engine and
// ends as it does, and everything inside with it.
func (p *plan) init() (int, error) {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	unix.CloseOnExec(lifelineFD())
	go func() {
		var word [1]byte
		_, _ = readRetry(lifelineFD(), word[:])
		os.Exit(exitLauncher)
	}()
	if err := enter(p.Store, p.Sources); err != nil {
		return 0, err
	}
	argv, err := p.argv()
	if err != nil {
		return 0, err
	}
	path, err := lookup(argv[0])
	if err != nil {
		return 0, err
	}
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{Env: p.environ(), Files: handedOver(), Dir: "/"})
	if err != nil {
		return 0, &os.PathError{Op: "exec", Path: path, Err: err}
	}
	closeSockets()
	go forward(signals, pid)
	return reap(pid)
}

// argv is the engine's command line with what only we know.
func (p *plan) argv() ([]string, error) {
	argv := slices.Concat(p.Engine, p.Run[:min(1, len(p.Run))])
	for _, resource := range p.Inherited {
		l, err := ownLimit(resource)
		if err != nil {
			return nil, err
		}
		argv = append(argv, l)
	}
	if path := os.Getenv("NOTIFY_SOCKET"); path != "" {
		// The folder that it stands in is closed to everybody else outside; the
		// user inside may be anybody.
		if err := os.Chmod(path, 0o777); err != nil {
			return nil, err
		}
		argv = append(argv, "--volume="+path+":"+notifyInside+":rw", "--env=NOTIFY_SOCKET="+notifyInside)
	}
	if len(p.Run) > 0 {
		argv = append(argv, p.Run[1:]...)
	}
	return append(argv, p.Image...), nil
}

const notifyInside = "/run/.notify"

func ownLimit(resource string) (string, error) {
	number := map[string]int{"nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC}
	var l unix.Rlimit
	if err := unix.Getrlimit(number[resource], &l); err != nil {
		return "", os.NewSyscallError("getrlimit", err)
	}
	if resource == "nofile" {
		return limit(resource, min(spec.SoftDescriptors, l.Max), l.Max), nil
	}
	return limit(resource, l.Max, l.Max), nil
}

// environ is the engine's own environment. The engine passes LISTEN_FDS on, and
// checks no LISTEN_PID.
func (p *plan) environ() []string {
	env := slices.DeleteFunc(os.Environ(), func(e string) bool {
		return strings.HasPrefix(e, "NOTIFY_SOCKET=") || strings.HasPrefix(e, "LISTEN_PIDFDID=")
	})
	if p.UID != 0 {
		// As `podman unshare` does: these namespaces are the ones to use.
		env = append(env, "_CONTAINERS_USERNS_CONFIGURED=done",
			"_CONTAINERS_ROOTLESS_UID="+strconv.Itoa(p.UID), "_CONTAINERS_ROOTLESS_GID="+strconv.Itoa(p.GID))
	}
	return env
}

// forward passes on what we are sent. SIGURG is the Go runtime's own.
func forward(signals <-chan os.Signal, to int) {
	for received := range signals {
		if sig, ok := received.(syscall.Signal); ok && sig != syscall.SIGCHLD && sig != syscall.SIGURG {
			_ = unix.Kill(to, sig)
		}
	}
}

// reap waits for whoever ends until child does, and returns its exit status,
// 128+n for signal n.
func reap(child int) (int, error) {
	for {
		pid, status, err := fd.Reap(-1)
		switch {
		case err != nil:
			return 0, err
		case pid == child && status.Exited():
			return status.ExitStatus(), nil
		case pid == child && status.Signaled():
			return 128 + int(status.Signal()), nil
		}
	}
}

func readRetry(from int, b []byte) (n int, err error) {
	err = fd.Again(func() (err error) {
		n, err = unix.Read(from, b)
		return err
	})
	return n, err
}

func lookup(program string) (string, error) {
	if strings.Contains(program, "/") {
		_, err := os.Stat(program)
		return program, err
	}
	for _, dir := range strings.Split(os.Getenv("PATH"), ":") {
		path := dir + "/" + program
		if unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: not found in PATH: on Debian, apt-get install podman crun uidmap", program)
}
