package behalf

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/process/vfork"
)

// Place is the user namespace and the pid namespace of a process, and its ids as the process
// sees them itself; after OpenRoot also its files. Any goroutine may use it.
type Place struct {
	user, pids int // user -1: ours
	uid, gid   int
	groups     []int // as we see them

	mounts, root int    // its mount namespace and its root folder; -1: ours
	folder       string // its working directory, as it sees it
	umask        int
}

// OpenPlace opens those of a process or a thread, which must not have been reaped. The
// caller closes it.
func OpenPlace(pid int) (*Place, error) {
	ids, err := IDsOf(pid)
	if err != nil {
		return nil, err
	}
	p := &Place{user: -1, pids: -1, mounts: -1, root: -1, groups: ids.Groups}
	if p.uid, err = findIDInside(pid, "uid_map", ids.UID); err == nil {
		p.gid, err = findIDInside(pid, "gid_map", ids.GID)
	}
	if err != nil {
		return nil, err
	}
	for _, o := range []struct {
		name string
		fd   *int
	}{{"user", &p.user}, {"pid", &p.pids}} {
		if o.fd == &p.user && sharesNamespace(pid, "user") {
			continue // a process cannot enter the namespace that it is in (EINVAL): a container of root's has ours
		}
		path := fmt.Sprintf("/proc/%d/ns/%s", pid, o.name)
		if *o.fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			p.Close()
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
	return p, nil
}

// Close closes what OpenPlace and OpenRoot opened. It may be called twice.
func (p *Place) Close() {
	for _, fd := range []*int{&p.user, &p.pids, &p.mounts, &p.root} {
		if *fd >= 0 {
			_ = unix.Close(*fd)
			*fd = -1
		}
	}
}

// findIDInside returns the id by which a process knows one of our ids: user_namespaces(7).
func findIDInside(pid int, file string, id int) (int, error) {
	path := fmt.Sprintf("/proc/%d/%s", pid, file)
	text, err := os.ReadFile(path)
	if err != nil {
		return -1, err
	}
	for line := range strings.Lines(string(text)) {
		var numbers [3]int // first inside, first outside, count
		for i, field := range strings.Fields(line) {
			if numbers[min(i, 2)], err = strconv.Atoi(field); err != nil {
				return -1, fmt.Errorf("%s: %w", path, err)
			}
		}
		if at := id - numbers[1]; at >= 0 && at < numbers[2] {
			return numbers[0] + at, nil
		}
	}
	return -1, fmt.Errorf("%s: %w: it does not have id %d", path, unix.EINVAL, id)
}

// Listen is listen(2) of a unix socket. The kernel keeps the ids of the caller: they are the
// process's, and the pid is one of its namespace.
func (p *Place) Listen(fd, backlog int) error {
	list, err := vfork.New()
	if err != nil {
		return err
	}
	defer list.Close()
	return p.runInside(list, fd, callTimeout, func() vfork.Call { return list.Do(unix.SYS_LISTEN, uintptr(fd), uintptr(backlog)) })
}

// HasListener reports whether fd, a unix socket that is connected, is connected to a
// socket on which a process of this place has called listen(2).
//
// The user does not prove that: the services of an ordinary user are all that user. Nor does the
// network namespace of the other end, which is that of fd itself (unix_stream_connect() in
// net/unix/af_unix.c). Nor does a pid as we see it, which may be that of another process by now.
// But the kernel keeps the process itself, dead or alive. It tells the pid only to processes in
// whose pid namespace that process is, or was.
func (p *Place) HasListener(fd int) (bool, error) {
	list, err := vfork.New()
	if err != nil {
		return false, err
	}
	defer list.Close()
	ucred, size := list.NewBuffer(unix.SizeofUcred), list.AddWords(unix.SizeofUcred)
	err = p.runInside(list, fd, callTimeout, func() vfork.Call {
		return list.Do(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERCRED, ucred.Address, size.Address)
	})
	return err == nil && binary.NativeEndian.Uint32(ucred.Bytes) != 0, err // struct ucred begins with the pid
}

// runInside has a process of the place make the call that add adds. A child of ours enters the
// namespaces and starts a second child, since a process never changes its own pid namespace:
// pid_namespaces(7). It does not wait for the second one, which is a child of ours too
// (CLONE_PARENT).
//
// The service's user cannot signal the first child, which keeps our ids and is seen by no process
// of the place. The second child has the process's ids only as the effective ones. As root its
// real user stays ours: so a process of the place needs a capability to stop, kill or trace it,
// kill(2), ptrace(2). The services of an ordinary user have that user and need none. So we wait
// for neither child longer than limit (0: until the place ends, which kills all in it), and both
// end with us.
//
// Both have a copy of our memory, which only root of our own user namespace may read
// (PR_SET_DUMPABLE, prctl(2)), and of our descriptors fd alone.
func (p *Place) runInside(list *vfork.CallList, fd int, limit time.Duration, add func() vfork.Call) error {
	step := stepsOf(list)
	addProtection(list, step)
	step("setgroups")
	groups := make([]byte, 0, 4*len(p.groups))
	for _, group := range p.groups {
		groups = binary.NativeEndian.AppendUint32(groups, uint32(group))
	}
	list.Do(unix.SYS_SETGROUPS, uintptr(len(p.groups)), list.AddBytes(groups)).IgnoreErrors(unix.EPERM) // an ordinary user has them
	step("setns")
	if p.user >= 0 {
		list.Do(unix.SYS_SETNS, uintptr(p.user), unix.CLONE_NEWUSER)
	}
	list.Do(unix.SYS_SETNS, uintptr(p.pids), unix.CLONE_NEWPID)
	p.addRoot(list, step)
	step("close_range")
	if fd > 0 {
		list.Do(unix.SYS_CLOSE_RANGE, 0, uintptr(fd-1), 0)
	}
	list.Do(unix.SYS_CLOSE_RANGE, uintptr(fd+1), uintptr(^uint32(0)), 0)
	addProtection(list, step)
	step("clone")
	there, second := list.NewLabel(), list.AddWords(0)
	list.Do(unix.SYS_CLONE, unix.CLONE_VM|unix.CLONE_PARENT|unix.CLONE_PARENT_SETTID|uintptr(unix.SIGCHLD), 0, second.Address, 0, 0).OnZero(there)
	list.Do(unix.SYS_EXIT_GROUP, 0)
	list.PlaceLabel(there)
	p.addIdentity(list, step)
	addProtection(list, step)
	list.ExplainNext(nil)
	made := add()
	if err := startAndWait(list, second, limit); err != nil {
		return err
	}
	if err := list.Failure(); err != nil {
		return err
	}
	if made.Result() < 0 {
		return errUnfinished
	}
	return nil
}

// stepsOf returns what names the calls that are added next, in an error.
func stepsOf(list *vfork.CallList) (step func(name string)) {
	return func(name string) {
		list.ExplainNext(func(errno unix.Errno) error { return os.NewSyscallError(name, errno) })
	}
}

// addProtection adds the calls that keep the child's memory from others, and that have it end with
// the thread that waits for it. Both are undone when a process changes its ids, prctl(2).
func addProtection(list *vfork.CallList, step func(name string)) {
	step("prctl")
	list.Do(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	list.Do(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
}

// addIdentity adds the calls that give the child the ids of the process as its effective ones, and
// one capability, for low ports. It holds in the place's user namespace, which has the process's
// own network and no other.
func (p *Place) addIdentity(list *vfork.CallList, step func(name string)) {
	const same = ^uintptr(0)
	step("setresgid")
	list.Do(unix.SYS_SETRESGID, same, uintptr(p.gid), same)
	step("setresuid")
	list.Do(unix.SYS_SETRESUID, same, uintptr(p.uid), same)
	step("capset") // a user namespace that maps no 0 keeps them
	const ports = 1 << unix.CAP_NET_BIND_SERVICE
	kept := list.AddWords(ports|ports<<32, 0, 0) // effective, permitted
	list.Do(unix.SYS_CAPSET, list.AddWords(unix.LINUX_CAPABILITY_VERSION_3).Address, kept.Address)
}

// errUnfinished is of a child that was killed.
var errUnfinished = errors.New("a child that acts on behalf of a process was killed")

// callTimeout is how long a call may take that waits for no other process: more than a busy machine
// needs.
var callTimeout = 10 * time.Second

var openPidfd = unix.PidfdOpen // tests have it fail

// startAndWait returns when both children have ended. The kernel has written the pid of the second
// child to second before that child ran. Only we reap it, so the pid is not reused.
func startAndWait(list *vfork.CallList, second vfork.Buffer, limit time.Duration) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := startChild(list)
	pid := int(int32(binary.NativeEndian.Uint32(second.Bytes)))
	if pid == 0 {
		return err
	}
	pidfd, failed := openPidfd(pid, 0)
	if failed != nil {
		limit = -1 // it cannot be waited for with a limit
	}
	return errors.Join(err, os.NewSyscallError("pidfd_open", failed), waitFor(pid, pidfd, limit))
}

// startChild starts the child, and returns when it has ended. It ends with the calling thread.
func startChild(list *vfork.CallList) error {
	if err := list.Finish(); err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, pidfd, err := list.Start(0)
	if err != nil {
		return err
	}
	return waitFor(pid, pidfd, callTimeout)
}

// waitFor takes pidfd, and reaps the child; after limit it kills it first. 0: no limit.
func waitFor(pid, pidfd int, limit time.Duration) error {
	ended := false
	if limit >= 0 {
		ready, _ := fd.Poll(pidfd, unix.POLLIN, cmp.Or(limit, -1))
		ended = ready != 0
	}
	_ = unix.Close(pidfd)
	if !ended {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	_, _, err := fd.ReapChild(pid)
	if err == nil && !ended {
		err = fmt.Errorf("%w: it was held up for %v", errUnfinished, limit)
	}
	return err
}
