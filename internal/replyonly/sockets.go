package replyonly

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

// Start starts this very binary with argv, of which argv[0] says what it is to
// be, and returns its pid for us to kill and to reap.
type Start func(argv []string, attr *syscall.ProcAttr) (pid int, err error)

// answerTimeout bounds the wait for one answer of the helper, in seconds: only a hang takes
// so long. On emulated processors that others kept busy it took ten.
const answerTimeout = 60

// helperSocket is the number of the helper's end of the socket pair.
const helperSocket = 3

// errEnded says that a helper ended before it was told to.
var errEnded = errors.New("ended without an answer")

// closed leaves a descriptor of a child closed (the Go runtime of the helper opens
// /dev/null there).
const closed = ^uintptr(0)

// Sockets returns one UDP socket for each kind, in order, blocking and with
// FD_CLOEXEC, or none. Nothing is done to them yet; they may be bound, and given
// options, anywhere.
//
// It takes a process for all of them, and the directory of a cgroup below our own
// that is gone at the end.
func (p *Programs) Sockets(kinds []spec.Kind) (sockets []*os.File, err error) {
	for _, k := range kinds {
		if err := checkKind(k); err != nil {
			return nil, err
		}
	}
	if len(kinds) == 0 {
		return nil, nil
	}
	r, err := p.groups.room()
	if err != nil {
		return nil, err
	}
	defer r.close()
	if err := p.attach(r); err != nil {
		return nil, err
	}
	h, err := p.help(r)
	if err != nil {
		return nil, failed(stepHelper, err)
	}
	defer func() {
		if err != nil {
			closeAll(sockets)
			sockets = nil
		}
		h.close()
	}()
	for some := range slices.Chunk(kinds, maxKinds) {
		made, err := h.ask(some)
		sockets = append(sockets, made...)
		if err != nil {
			return sockets, err
		}
	}
	return sockets, tryAll(sockets, kinds)
}

// checkKind refuses what the programs have no answer for: to them, a TCP handshake
// is a packet to nobody they know.
func checkKind(k spec.Kind) error {
	if k.Family != unix.AF_INET && k.Family != unix.AF_INET6 || k.Type != unix.SOCK_DGRAM || k.Protocol != 0 && k.Protocol != unix.IPPROTO_UDP {
		return fmt.Errorf("socket of family %d, type %d, protocol %d: only UDP can be sealed", k.Family, k.Type, k.Protocol)
	}
	return nil
}

// attach makes our programs those of the room.
func (p *Programs) attach(r *room) error {
	for i, h := range hooks() {
		_, err := withFD(r.dir, func(cgroup int) (int, error) {
			return withFD(p.programs[i], func(program int) (int, error) { return 0, attach(cgroup, program, h) })
		})
		if err != nil {
			return failed(stepAttach, fmt.Errorf("%s: %w", h.name, err))
		}
	}
	return nil
}

// helping is a helper at work.
type helping struct {
	conn int // our end of the socket pair
	pid  int
}

// help starts a helper in the room. The processes of a cgroup are forked there
// with CLONE_INTO_CGROUP, clone(2), Linux 5.7.
func (p *Programs) help(r *room) (*helping, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	defer func() { _ = unix.Close(pair[1]) }()
	h := &helping{conn: pair[0]}
	_, err = withFD(r.dir, func(cgroup int) (_ int, err error) {
		h.pid, err = p.start([]string{HelperName, fmt.Sprint(helperSocket)}, &syscall.ProcAttr{
			Env:   []string{},
			Files: []uintptr{closed, closed, 2, helperSocket: uintptr(pair[1])},
			Sys:   &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: cgroup},
		})
		return 0, err
	})
	if err == nil {
		return h, nil
	}
	_ = unix.Close(h.conn)
	return nil, fmt.Errorf("start: %w", err)
}

// close ends the helper and waits for it, so that its cgroup is empty.
func (h *helping) close() {
	_ = unix.Close(h.conn)
	_, _ = retry(func() (int, error) { return unix.Wait4(h.pid, nil, 0, nil) })
}

// kill is for a helper that does not answer; close reaps it.
func (h *helping) kill() { _ = unix.Kill(h.pid, unix.SIGKILL) }

// ask returns the sockets that came, also on error.
func (h *helping) ask(kinds []spec.Kind) ([]*os.File, error) {
	if err := unix.SetsockoptTimeval(h.conn, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: answerTimeout}); err != nil {
		return nil, failed(stepHelper, os.NewSyscallError("setsockopt SO_RCVTIMEO", err))
	}
	_, err := retry(func() (int, error) { return 0, unix.Sendto(h.conn, encodeKinds(kinds), unix.MSG_NOSIGNAL, nil) })
	if err == unix.EPIPE {
		return nil, failed(stepHelper, errEnded)
	}
	if err != nil {
		h.kill()
		return nil, failed(stepHelper, os.NewSyscallError("send", err))
	}
	data, fds, err := h.receive()
	sockets := make([]*os.File, 0, len(fds))
	for _, fd := range fds {
		sockets = append(sockets, os.NewFile(uintptr(fd), "udp socket"))
	}
	if err != nil {
		h.kill()
		return sockets, failed(stepHelper, err)
	}
	index, errno, err := decodeAnswer(data)
	switch {
	case err != nil:
		return sockets, failed(stepHelper, err)
	case errno != 0 && index < len(kinds):
		return sockets, failed(stepHelper, fmt.Errorf("socket of family %d: %w", kinds[index].Family, errno))
	case errno != 0 || len(sockets) != len(kinds):
		return sockets, failed(stepHelper, fmt.Errorf("%d sockets for %d: %w", len(sockets), len(kinds), unix.EPROTO))
	}
	return sockets, nil
}

// receive returns one answer and the descriptors that came with it, which are
// ours also on error.
func (h *helping) receive() (data []byte, fds []int, err error) {
	data = make([]byte, answerSize)
	oob := make([]byte, unix.CmsgSpace(4*maxKinds))
	var n, oobn, flags int
	_, err = retry(func() (_ int, err error) {
		n, oobn, flags, _, err = unix.Recvmsg(h.conn, data, oob, unix.MSG_CMSG_CLOEXEC)
		return 0, err
	})
	switch err {
	case nil:
	case unix.EAGAIN: // not that of fork, which has another cure
		return nil, nil, fmt.Errorf("no answer: %w", os.ErrDeadlineExceeded)
	case unix.ECONNRESET: // it ended before it read what we asked
		return nil, nil, errEnded
	default:
		return nil, nil, os.NewSyscallError("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	for i := range messages {
		if passed, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, passed...)
		}
	}
	switch {
	case err != nil:
		return nil, fds, os.NewSyscallError("recvmsg", err)
	case flags&unix.MSG_CTRUNC != 0: // no descriptor was free for it
		return nil, fds, os.NewSyscallError("recvmsg", unix.EMFILE)
	case n == 0:
		return nil, fds, errEnded
	}
	return data[:n], fds, nil
}

// tryAll tries the seal of sockets that have no table yet: a connect, which sends
// nothing, must be refused. It would not be where a kernel has lost the cgroup of
// its sockets.
func tryAll(sockets []*os.File, kinds []spec.Kind) error {
	for i, s := range sockets {
		var to unix.Sockaddr = &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}}
		if kinds[i].Family == unix.AF_INET6 {
			to = &unix.SockaddrInet6{Port: 9, Addr: [16]byte{15: 1}}
		}
		_, err := withFD(s, func(fd int) (int, error) {
			return retry(func() (int, error) { return 0, unix.Connect(fd, to) })
		})
		if !errors.Is(err, unix.EPERM) {
			return &Error{Step: stepTrial, Err: fmt.Errorf("connect of a sealed socket: %v, want %v", err, unix.EPERM)}
		}
	}
	return nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
