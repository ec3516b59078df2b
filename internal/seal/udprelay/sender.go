package udprelay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/behalf"
	"activator/internal/kernel/fd"
	"activator/internal/kernel/sockaddr"
)

// A client's name is what the client says. It was bound in a network and in a mount
// namespace that may not be ours, and a path may be another file by now: we could reach
// sockets by it that the client, or the service, may not. So an abstract name is
// answered only if the client is in our network; and a path is looked up in the root of the
// client's process, with its ids, follows no link at its end, and must be a socket of
// its user: the answer goes where the client could send it itself, to the very
// node that was looked at.

// sender is the process that sent a datagram: SCM_CREDENTIALS and SCM_TIMESTAMPNS.
type sender struct {
	pid, uid, gid int           // -1: the kernel does not say
	sent          time.Duration // by the clock of the day
	born          time.Duration // of the process, since boot; 0: not looked at
}

// senderSpace is the room for these and nothing else: descriptors that a client sends
// are dropped by the kernel. unix(7).
const senderSpace = 2*unix.SizeofCmsghdr + 16 /* struct timespec */ + unix.SizeofUcred + 4

func senderOf(ctl []byte) sender {
	s := sender{pid: -1, uid: -1, gid: -1}
	if creds := findControl(ctl, unix.SOL_SOCKET, unix.SCM_CREDENTIALS); len(creds) >= unix.SizeofUcred {
		s.pid, s.uid, s.gid = int(binary.NativeEndian.Uint32(creds)), int(binary.NativeEndian.Uint32(creds[4:])), int(binary.NativeEndian.Uint32(creds[8:]))
	}
	if stamp := findControl(ctl, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_OLD); len(stamp) >= 16 { // SCM_TIMESTAMPNS
		s.sent = time.Duration(binary.NativeEndian.Uint64(stamp))*time.Second + time.Duration(binary.NativeEndian.Uint64(stamp[8:]))
	}
	return s
}

// keyOf tells clients apart: a path is that of one process.
func (u *unixRelay) keyOf(client *sockaddr.Raw, s *sender) []byte {
	u.key = append(u.key[:0], client.Bytes()...)
	if text, abstract := client.Path(); !abstract && len(text) > 0 {
		u.key = binary.NativeEndian.AppendUint32(append(u.key, 0), uint32(s.pid))
	}
	return u.key
}

// isAbstract reports whether the host's socket has an abstract name: then all its clients
// are of its network, and their names too.
func (u *unixRelay) isAbstract() bool {
	_, is := u.self.Path()
	return is
}

// reachClient finds out how the client of f is answered, if at all.
func (u *unixRelay) reachClient(f *flow) {
	path, abstract := f.client.Path()
	var err error
	switch {
	case !abstract && len(path) == 0:
		return
	case !abstract:
		var node int
		if node, err = u.openNode(&f.sender, string(path)); err == nil {
			u.flows.setNode(f, node)
		}
	case !u.isAbstract():
		err = f.sender.sharesNetwork()
	}
	if f.reached = err == nil; !f.reached {
		u.sayUnanswered(f, err)
	}
}

// confirmSender says whether the process that now has the number is the one that sent: it was
// there before. The clock of processes ticks every 10 ms, proc_pid_stat(5); within
// that time no number comes round.
func (s *sender) confirmSender() error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.pid))
	if err != nil {
		return err
	}
	const starttime = 22 - 3 // the fields behind the name begin with the third
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) <= starttime {
		return unix.EBADMSG
	}
	ticks, err := strconv.ParseUint(fields[starttime], 10, 63)
	if err != nil {
		return err
	}
	const tick = 10 * time.Millisecond // USER_HZ
	born := time.Duration(ticks) * tick
	var day, boot unix.Timespec
	err = errors.Join(unix.ClockGettime(unix.CLOCK_REALTIME, &day), unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot))
	if err != nil {
		return os.NewSyscallError("clock_gettime", err)
	}
	if later := time.Duration(day.Nano()-boot.Nano()) + born - s.sent; later > 0 || s.born != 0 && born != s.born {
		return fmt.Errorf("process %d has begun after the datagram: %w", s.pid, unix.ESRCH)
	}
	s.born = born
	return nil
}

// sharesNetwork is nil if the sender is in our network namespace.
func (s *sender) sharesNetwork() error {
	var its, ours unix.Stat_t
	path := fmt.Sprintf("/proc/%d/ns/net", s.pid)
	if err := unix.Stat(path, &its); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if err := unix.Stat("/proc/thread-self/ns/net", &ours); err != nil {
		return os.NewSyscallError("stat", err)
	}
	if its.Dev != ours.Dev || its.Ino != ours.Ino {
		return errors.New("it is in another network namespace, where its name is another's")
	}
	return s.confirmSender()
}

// openView opens the root of the sender, and says with which ids we look there: its own, or ours
// where we are an ordinary user: that one can have no others, and it is its process.
func (s *sender) openView() (root int, ids behalf.IDs, err error) {
	path := fmt.Sprintf("/proc/%d/root", s.pid)
	if root, err = unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return -1, ids, &os.PathError{Op: "open", Path: path, Err: err}
	}
	like := s.pid
	if os.Geteuid() != 0 {
		like = os.Getpid()
	}
	if ids, err = behalf.IDsOf(like); err == nil {
		err = s.confirmSender()
	}
	if err != nil {
		_ = unix.Close(root)
	}
	return root, ids, err
}

// viewStranger is view of a sender that we cannot look into: what we see, where it can only be a
// socket of a user that is neither the service's nor ours.
func (u *unixRelay) viewStranger(s *sender, why error) (root int, ids behalf.IDs, err error) {
	if s.uid < 0 || s.uid == nobody || s.uid == os.Geteuid() || s.uid == u.options.UID {
		return -1, ids, why
	}
	if ids, err = behalf.IDsOf(os.Getpid()); err != nil {
		return -1, ids, err
	}
	if os.Geteuid() == 0 {
		ids = behalf.IDs{UID: s.uid, GID: s.gid}
	}
	root, err = unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return root, ids, err
}

// openNode opens, with O_PATH, the node of a client with a path. The caller closes it.
func (u *unixRelay) openNode(s *sender, path string) (node int, err error) {
	if path[0] != '/' {
		return -1, errors.New("its path is relative")
	}
	root, ids, err := s.openView()
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOENT) {
		root, ids, err = u.viewStranger(s, err)
	}
	if err != nil {
		return -1, err
	}
	defer unix.Close(root)
	err = ids.Do(func() (err error) {
		if node, err = fd.OpenInRoot(root, path, unix.O_PATH|unix.O_NOFOLLOW); err == nil {
			if err = s.checkOwner(node); err != nil {
				_ = unix.Close(node)
			}
		}
		return err
	})
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return node, nil
}

// checkOwner is nil for a socket of the sender's user that the calling thread may send to.
func (s *sender) checkOwner(node int) error {
	var st unix.Stat_t
	if err := unix.Fstat(node, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK || int(st.Uid) != s.uid {
		return unix.ENOTSOCK
	}
	var empty byte
	_, _, e := unix.RawSyscall6(unix.SYS_FACCESSAT2, uintptr(node), uintptr(unsafe.Pointer(&empty)), unix.W_OK,
		unix.AT_EMPTY_PATH|unix.AT_EACCESS, 0, 0)
	return errnoOrNil(e)
}
