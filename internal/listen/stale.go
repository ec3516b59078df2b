package listen

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// clearPath makes sure that nothing stands at the place: a socket that no process has is
// taken away, everything else is an error.
func (s place) clearPath() error {
	// The reserve of a living activator means that it is about to put its node
	// back.
	if err := s.clearStale(s.reserveName()); err != nil {
		var busy *OccupiedError
		if errors.As(err, &busy) && busy.Live {
			return &OccupiedError{Path: s.path, What: s.describeLive(s.Name), Live: true}
		}
	}
	return s.clearStale(s.Name)
}

func (s place) clearStale(name string) error {
	path := s.pathOf(name)
	// The descriptor keeps the inode: its number cannot be that of a socket that
	// is made meanwhile.
	node, err := s.Folder.Open(name, unix.O_PATH, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(node)
	var st unix.Stat_t
	if err := unix.Fstat(node, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return &OccupiedError{Path: path, What: s.describeFile(name, &st)}
	}
	live, err := probeNode(node)
	if errors.Is(err, unix.EACCES) && int(st.Uid) == os.Geteuid() && st.Mode&0o200 == 0 {
		live, err = probeOwnNode(node, st.Mode&0o777)
	}
	if errors.Is(err, unix.EACCES) {
		return &OccupiedError{Path: path, What: fmt.Sprintf("a socket of uid %d, which this user may not ask whether it lives,", st.Uid)}
	}
	if err != nil {
		return &fs.PathError{Op: "connect", Path: path, Err: err}
	}
	if live {
		return &OccupiedError{Path: path, What: s.describeLive(name), Live: true}
	}
	return s.removeExactly(name, inode{st.Dev, st.Ino})
}

// probeNode reports whether some process has the socket of this node. It does not
// disturb it: a datagram socket cannot connect to a stream socket, which the
// kernel says (EPROTOTYPE) only when there is one; connecting to a datagram
// socket sends nothing. ECONNREFUSED is a node without a socket. connect(2),
// unix(7).
func probeNode(node int) (live bool, err error) {
	asking, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return false, os.NewSyscallError("socket", err)
	}
	defer unix.Close(asking)
	// Through the descriptor: the name of a reserve may be too long for an address.
	err = unix.Connect(asking, &unix.SockaddrUnix{Name: fd.LinkOf(node)})
	switch err {
	case nil, unix.EPROTOTYPE, unix.EPERM, unix.EAGAIN:
		return true, nil
	case unix.ECONNREFUSED:
		return false, nil
	}
	return false, err
}

// probeOwnNode asks a node of ours whose mode keeps out even us.
func probeOwnNode(node int, mode uint32) (live bool, err error) {
	name := fd.LinkOf(node)
	if err := unix.Chmod(name, mode|0o200); err != nil {
		return false, err
	}
	defer func() { _ = unix.Chmod(name, mode) }()
	return probeNode(node)
}

func (s place) describeLive(name string) string {
	rivals := unixRivals(s.pathOf(name))
	if id, err := s.inodeOf(name); err == nil {
		if exact := boundTo(id.ino, rivals); exact != nil {
			rivals = exact // others were bound to a node that is gone, perhaps ours
		}
	}
	if st, err := s.Stat(name); err == nil && len(rivals) > 0 {
		rivals[0].uid = strconv.Itoa(int(st.Uid)) // of its maker, unless it has been given away
	}
	who, _, _ := strings.Cut(strings.TrimPrefix(describeHolders(rivals), "held by "), ";") // what helps is said behind it
	if who == "" {
		return "a live socket"
	}
	return "a live socket of " + who
}
