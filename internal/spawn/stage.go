package spawn

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/fdpass"
	"activator/internal/sandbox"
)

// exitStage is the status of a stage that could not become the program; the
// parent knows why from the socket.
const exitStage = 125

// Capabilities, no_new_privs and what execve keeps are properties of a thread:
// in an init the main goroutine is on the main thread, and stays there.
func init() {
	if IsStage() {
		runtime.LockOSThread()
	}
}

// IsStage reports whether this process was started as the second stage, or as
// the guard.
func IsStage() bool { return len(os.Args) == 2 && os.Args[0] == StageName || isGuard() }

// Stage is the second stage: it is told a plan, builds what can be built, waits
// for the word to go and becomes the program. It never returns, starts no
// goroutine and logs nothing. It must be the first statement of main. The guard
// goes the same way: a binary that knew only one of the two would start itself
// without end.
func Stage() {
	if isGuard() {
		standGuard()
	}
	control, err := strconv.Atoi(os.Args[1])
	if err != nil {
		os.Exit(exitStage)
	}
	s := stage{control: descriptor(control)}
	err = s.run()
	if err != io.EOF { // the activator is gone: nobody to tell
		s.fail(err)
	}
	os.Exit(exitStage)
}

type stage struct {
	control descriptor
	plan    *plan
}

func (s *stage) run() error {
	// Nothing but 0, 1 and 2 goes on by accident; the sockets are marked last.
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return &StageError{Step: "start", Errno: errnoOf(err), Cure: "Linux 5.15 is needed"}
	}
	var err error
	if s.plan, err = readPlan(s.control); err != nil {
		return err
	}
	if err := defaultSignals(); err != nil { // 64 system calls that no client has to wait for
		return err
	}
	if !s.plan.Inner {
		if err := s.prepare(); err != nil {
			return err
		}
	}
	if s.plan.Init {
		return s.reaper()
	}
	return s.become()
}

// prepare builds everything that needs no client yet, says so, and waits, for
// ever if nobody comes.
func (s *stage) prepare() error {
	p := s.plan
	if p.Sandbox != nil {
		if err := sandbox.Build(p.Sandbox, p.Trees); err != nil {
			return err
		}
	}
	if p.Notify != 0 {
		if err := s.bindNotify(); err != nil {
			return err
		}
	}
	if p.Sandbox != nil {
		if err := s.confine(); err != nil {
			return err
		}
	}
	if _, err := s.control.Write([]byte{wordReady}); err != nil {
		return io.EOF
	}
	return s.await()
}

// confine puts up the walls, and hands the parent what it answers the program's
// calls with.
func (s *stage) confine() error {
	// Under the filter this one would only seem to be set.
	for _, limit := range s.plan.Limits {
		if limit.Resource == "core" {
			if err := setLimits([]Limit{limit}); err != nil {
				return err
			}
		}
	}
	listener, err := s.plan.Sandbox.Confine()
	if err != nil || listener < 0 {
		return err
	}
	defer func() { _ = unix.Close(listener) }()
	cookie, err := netnsCookie()
	if err != nil {
		return &StageError{Step: "supervisor", Errno: errnoOf(err)}
	}
	word := binary.LittleEndian.AppendUint64([]byte{wordWatch}, cookie)
	if err := unix.Sendmsg(int(s.control), word, unix.UnixRights(listener), nil, unix.MSG_NOSIGNAL); err != nil {
		return io.EOF
	}
	return nil
}

// netnsCookie is the number of our network namespace, socket(7), which tells the
// sockets we make from those we were handed.
func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(fd) }()
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return cookie, os.NewSyscallError("getsockopt", err)
}

// bindNotify gives the parent's socket its name inside. A /run that the
// configuration mounts may still have the one of the start before.
func (s *stage) bindNotify() error {
	address := &unix.SockaddrUnix{Name: s.plan.NotifyPath}
	err := unix.Bind(s.plan.Notify, address)
	if err == unix.EADDRINUSE && unix.Unlink(address.Name) == nil {
		err = unix.Bind(s.plan.Notify, address)
	}
	_ = unix.Close(s.plan.Notify)
	if err != nil {
		return &StageError{Step: "notify", Path: address.Name, Errno: errnoOf(err), Cure: "notify = true needs a /run that the service can write to"}
	}
	return nil
}

// become is the rest of the way. Order: limits when nothing else is done that
// they could hinder; the sockets' marks when nothing else can be exec'ed; the
// word when only execve is left.
func (s *stage) become() error {
	p := s.plan
	dir := p.Dir
	if dir == "" {
		dir = "/"
	}
	if err := unix.Chdir(dir); err != nil {
		return &StageError{Step: "working_directory", Path: dir, Errno: errnoOf(err), Cure: "it must exist inside: mount it, or make it part of the root"}
	}
	program, err := lookup(p.Argv[0], p.Env)
	if err != nil {
		return err
	}
	env, err := s.environ()
	if err != nil {
		return err
	}
	unix.Umask(p.Umask)
	if err := setLimits(p.Limits); err != nil {
		return err
	}
	for fd := 3; fd < 3+p.Sockets; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return &StageError{Step: "sockets", Errno: errnoOf(err)}
		}
	}
	if _, err := s.control.Write([]byte{wordExec}); err != nil {
		return io.EOF
	}
	return explain(program, syscall.Exec(program, p.Argv, env))
}

// environ completes the environment with what only this process knows.
func (s *stage) environ() ([]string, error) {
	env := s.plan.Env
	if s.plan.NotifyPath != "" {
		env = append(env, "NOTIFY_SOCKET="+s.plan.NotifyPath)
	}
	if s.plan.Sockets == 0 {
		return env, nil
	}
	listen, err := fdpass.Environ(s.plan.FDNames)
	if err != nil {
		return nil, &StageError{Step: "LISTEN_FDS", Errno: errnoOf(err), Cure: err.Error()}
	}
	return append(env, listen...), nil
}

// fail tells the parent.
func (s *stage) fail(err error) {
	var refusal *StageError
	if !errors.As(err, &refusal) {
		refusal = &StageError{Step: "stage", Errno: errnoOf(err), Cure: err.Error()}
	}
	text, _ := json.Marshal(refusal)
	_, _ = s.control.Write(append([]byte{wordError}, text...))
}

// descriptor is a blocking fd without the runtime's poller, which is another
// thread.
type descriptor int

func (d descriptor) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(int(d), b)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

func (d descriptor) Write(b []byte) (int, error) {
	written := 0
	for written < len(b) {
		// Without SIGPIPE: the parent may be gone.
		n, err := unix.SendmsgN(int(d), b[written:], nil, nil, unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return written, os.NewSyscallError("sendmsg", err)
		}
		written += n
	}
	return written, nil
}
