package relay

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrStale says that a realm gets no more flow sockets, because the maker that
// owned it is gone: the clients it has are served on, and new ones need a
// stand-in made anew.
var ErrStale = errors.New("the realm's maker is gone")

// ErrClosed is returned by what has been closed.
var ErrClosed = errors.New("relay closed")

// StartFunc starts this very binary with argv, and returns its pid.
type StartFunc func(argv []string, attr *syscall.ProcAttr) (pid int, err error)

// Maker has realms made by its process, which it starts when one is needed, and
// anew when it is gone. Its methods may be called from several goroutines.
type Maker struct {
	start StartFunc

	mu         sync.Mutex
	closed     bool
	control    *os.File // nil: no process
	pid        int
	generation int // of the process, from 1
}

// orderTime is how long an order may take; it takes a millisecond or two.
const orderTime = 10 * time.Second

// NewMaker only remembers start: the process starts with the first realm.
func NewMaker(start StartFunc) *Maker { return &Maker{start: start} }

// Close ends the process. Realms that were made live on, but get no more flow
// sockets.
func (m *Maker) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	m.end()
	return nil
}

// end kills and reaps the process; with m.mu. It is ours and unreaped, so the
// pid is no one else's.
func (m *Maker) end() {
	if m.control == nil {
		return
	}
	_ = m.control.Close()
	m.control = nil
	_ = unix.Kill(m.pid, unix.SIGKILL)
	for {
		if _, err := unix.Wait4(m.pid, nil, 0, nil); err != unix.EINTR {
			return
		}
	}
}

// found has a realm made and returns the descriptors, which the caller closes,
// and the generation of the process that can make more.
func (m *Maker) found(o *order) (fds []int, node bool, generation int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for range 2 { // one that died meanwhile is noticed only now
		if err = m.alive(); err != nil {
			return nil, false, 0, err
		}
		var d delivery
		if fds, d, err = m.ask(o, nil); err == nil {
			return fds, d.Node, m.generation, nil
		}
		if m.control != nil {
			break // it answered, and said no
		}
	}
	return nil, false, 0, err
}

// more has flow sockets made in the realm of inner.
func (m *Maker) more(inner, generation int, domains []int) ([]int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || m.control == nil || m.generation != generation {
		return nil, ErrStale
	}
	fds, _, err := m.ask(&order{More: true, Flows: domains}, []int{inner})
	if err != nil && m.control == nil {
		return nil, ErrStale
	}
	return fds, err
}

// ask sends an order and waits for the delivery. When the process is gone or
// does not answer there is none any more afterwards.
func (m *Maker) ask(o *order, pass []int) (fds []int, d delivery, err error) {
	raw, err := m.control.SyscallConn()
	if err != nil {
		return nil, d, err
	}
	if err := m.control.SetDeadline(time.Now().Add(orderTime)); err != nil {
		return nil, d, err
	}
	var text []byte
	var inner error
	if err = raw.Control(func(fd uintptr) { inner = sendMessage(int(fd), o, pass) }); err == nil {
		err = inner
	}
	if err == nil {
		err = raw.Read(func(fd uintptr) bool {
			text, fds, inner = receiveMessage(int(fd))
			return !errors.Is(inner, unix.EAGAIN)
		})
	}
	if err == nil {
		err = inner
	}
	if err == nil {
		err = json.Unmarshal(text, &d)
	}
	switch {
	case errors.Is(err, unix.EMFILE):
		return nil, d, fmt.Errorf("flow sockets: %w", err) // of our own; the process is well
	case err != nil:
		closeAll(fds)
		m.end()
		if err == io.EOF {
			err = errors.New("it ended")
		}
		return nil, d, fmt.Errorf("relay's maker: %w", err)
	case d.Errno != 0:
		closeAll(fds)
		cure := ""
		if strings.HasPrefix(d.Step, "mount") || strings.HasPrefix(d.Step, "unshare") {
			cure = cureStart(unix.Errno(d.Errno)) // AppArmor lets one in, and then does not
		}
		return nil, d, fmt.Errorf("%w%s", &stepError{d.Step, unix.Errno(d.Errno)}, cure)
	}
	return fds, d, nil
}

// alive starts the process if there is none; with m.mu.
func (m *Maker) alive() error {
	if m.closed {
		return ErrClosed
	}
	if m.control != nil {
		return nil
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(pair[1])
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		_ = unix.Close(pair[0])
		return &os.PathError{Op: "open", Path: os.DevNull, Err: err}
	}
	defer unix.Close(null)
	pid, err := m.start([]string{MakerName, "3"}, attributes(null, pair[1]))
	if err != nil {
		_ = unix.Close(pair[0])
		return fmt.Errorf("relay's maker: %w%s", err, cureStart(err))
	}
	// Non-blocking for the runtime's poller; the other end blocks.
	if err := unix.SetNonblock(pair[0], true); err != nil {
		return os.NewSyscallError("fcntl", err) // never: it is a socket
	}
	m.control, m.pid = os.NewFile(uintptr(pair[0]), "relay maker"), pid
	m.generation++
	return nil
}

// attributes: a user namespace that has just us in it, and what the maker does
// there: namespaces and mounts, routes and any address, low ports. The
// capabilities must be ambient to survive execve where we are not root.
func attributes(null, control int) *syscall.ProcAttr {
	env := []string{"GOMAXPROCS=1"}
	if race := os.Getenv("GORACE"); race != "" {
		env = append(env, "GORACE="+race)
	}
	return &syscall.ProcAttr{
		Env:   env,
		Files: []uintptr{uintptr(null), uintptr(null), 2, uintptr(control)},
		Sys: &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}},
			AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SYS_CHROOT, unix.CAP_NET_ADMIN, unix.CAP_NET_BIND_SERVICE},
			Pdeathsig:   syscall.SIGKILL,
			Setsid:      true, // a key or a hang-up of a terminal does not mean it
		},
	}
}

func cureStart(err error) string {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return ": user namespaces are refused here (`activator doctor` says more)"
	case errors.Is(err, unix.ENOSPC):
		return ": namespaces are used up or turned off: sysctl user.max_user_namespaces, user.max_net_namespaces"
	}
	return ""
}

// batches are those that nobody uses.
var batches sync.Pool
