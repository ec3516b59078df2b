package process

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/proc"
	"activator/internal/sandbox"
	"activator/internal/spec"
)

// Process is one child, from its clone to its end. All methods may be
// called from any goroutine.
type Process struct {
	starter        *Starter
	pid            int
	engine         Engine // nil: none
	group          bool   // bare: its session's first process group has its number
	pidOne         bool   // it is pid 1 of its own namespace
	needsNoRelease bool   // without Release
	hasReaper      bool   // by a reaper: control stays open, its end of file ends everything
	pidfd          *os.File
	control        *os.File
	reports        reportSockets
	owners         spec.Owners
	refusals       *sandbox.Plan // of one that is observed
	ownNetwork     bool          // it is in none of the host's
	folders        []string
	env            []string  // that it will have, as far as it is known
	host           hostState // from the host, when it was prepared

	wait sync.Once // reaps
	exit Exit
	err  error
	main sync.WaitGroup // the watch of SetMain

	mu       sync.Mutex
	running  bool // execve succeeded
	reaped   bool // pid may be another process's
	closed   bool
	calls    *callList // what it does until it execs; nil: it has, or is gone
	listener *os.File  // the filter's listener; nil: none, or taken
	cookie   uint64    // of its network namespace, with a listener

	namespace uint64   // of mounts, of an engine
	mainFD    *os.File // pidfd of the process SetMain named; nil: pid itself
	mainPID   int
}

// Exit is how a process ended.
type Exit struct {
	Code   int            // of exit(2), when Signal is 0
	Signal syscall.Signal // that killed it
	Core   bool           // dumped
}

// OK reports an exit with 0.
func (e Exit) OK() bool { return e.Code == 0 && e.Signal == 0 }

func (e Exit) String() string {
	switch {
	case e.Signal == 0:
		return "exit status " + strconv.Itoa(e.Code)
	case e.Core:
		return "signal: " + e.Signal.String() + " (core dumped)"
	}
	return "signal: " + e.Signal.String()
}

// closeCalls gives back the memory of the call list, which is not read any more; with
// mu held.
func (p *Process) closeCalls() {
	if p.calls != nil {
		p.calls.Close()
		p.calls = nil
	}
}

// Pid is the process's number in our pid namespace.
func (p *Process) Pid() int { return p.pid }

// TakeNotifySocket returns the bound datagram socket the service reports to; nil
// where its spec has nothing to report, and at the second call.
func (p *Process) TakeNotifySocket() *os.File {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reports.notify.takeFile()
}

// TakeSyslogSocket returns the bound datagram socket at which syslog(3) of the service arrives; nil
// where its spec has none, and at the second call.
func (p *Process) TakeSyslogSocket() *os.File {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reports.syslog.takeFile()
}

// NotifyNode lends the node of that socket, opened with O_PATH, until Close. nil where its spec has
// nothing to report, or without supervision.
func (p *Process) NotifyNode() *os.File {
	return p.reports.notify.lendNode()
}

// SyslogNode is NotifyNode of the other socket.
func (p *Process) SyslogNode() *os.File { return p.reports.syslog.lendNode() }

// Owners says to whom it may give its files.
func (p *Process) Owners() spec.Owners { return p.owners }

// EngineNamespace is the number of the mount namespace in which an engine works, and no
// container of its; 0 of another process.
func (p *Process) EngineNamespace() uint64 { return p.namespace }

// mountNamespace is the number of a process's.
func mountNamespace(pid int) (uint64, error) {
	var stat unix.Stat_t
	path := fmt.Sprintf("/proc/%d/ns/mnt", pid)
	if err := unix.Stat(path, &stat); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return stat.Ino, nil
}

// TakeListener returns the descriptor on which the process's supervised calls are
// answered, see [spec.Sandbox.Supervised] and seccomp_unotify(2): it is readable
// when one waits, and at end of file (POLLHUP) when no process is left that could ask. The
// caller closes it; from then on the calls fail with ENOSYS. nil without
// supervision, and at the second call. It is there after Prepare.
func (p *Process) TakeListener() *os.File {
	p.mu.Lock()
	defer p.mu.Unlock()
	listener := p.listener
	p.listener = nil
	return listener
}

// FindRefusal returns a function that says how the process's filter would refuse a system call, by the call's number, its
// machine's AUDIT_ARCH_* and its arguments. The filter of an observed process leaves all refusals to the owner of its
// listener, who tells of them. nil: the process is not observed.
func (p *Process) FindRefusal() func(number, machine uint32, args [6]uint64) spec.Refusal {
	if p.refusals == nil {
		return nil
	}
	return p.refusals.FindRefusal
}

// FindBound says where the program has bound a socket of "tcp", which listens, or "udp" in a network of its own, where
// no client comes.
func (p *Process) FindBound(protocol string) []netip.AddrPort {
	if !p.ownNetwork {
		return nil
	}
	return proc.ListBound(p.pid, protocol, 1)
}

// NetnsCookie is SO_NETNS_COOKIE of the process's network namespace: a socket that
// has another one is not of its own making. 0 without supervision.
func (p *Process) NetnsCookie() uint64 { return p.cookie }
