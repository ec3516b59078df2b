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

// clear makes sure that nothing stands at the spot: a socket nobody has is
// taken away, everything else is an error.
func (s spot) clear() error {
	// The spare of a living activator means that it is about to put its node
	// back.
	if err := s.clearStale(s.spare()); err != nil {
		var busy *OccupiedError
		if errors.As(err, &busy) && busy.Live {
			return &OccupiedError{Path: s.path, What: s.describeLive(s.Name), Live: true}
		}
	}
	return s.clearStale(s.Name)
}

func (s spot) clearStale(name string) error {
	path := s.at(name)
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
		return &OccupiedError{Path: path, What: s.describe(name, &st)}
	}
	live, err := probe(node)
	if errors.Is(err, unix.EACCES) && int(st.Uid) == os.Geteuid() && st.Mode&0o200 == 0 {
		live, err = probeOwn(node, st.Mode&0o777)
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

// probe reports whether some process has the socket of this node. It does not
// disturb it: a datagram socket cannot connect to a stream socket, which the
// kernel says (EPROTOTYPE) only when there is one; connecting to a datagram
// socket sends nothing. ECONNREFUSED is a node without a socket. connect(2),
// unix(7).
func probe(node int) (live bool, err error) {
	asking, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return false, syscallError("socket", err)
	}
	defer unix.Close(asking)
	// Through the descriptor: the name of a spare may be too long for an address.
	err = unix.Connect(asking, &unix.SockaddrUnix{Name: fd.LinkOf(node)})
	switch err {
	case nil, unix.EPROTOTYPE, unix.EPERM, unix.EAGAIN:
		return true, nil
	case unix.ECONNREFUSED:
		return false, nil
	}
	return false, err
}

// probeOwn asks a node of ours whose mode keeps out even us.
func probeOwn(node int, mode uint32) (live bool, err error) {
	name := fd.LinkOf(node)
	if err := unix.Chmod(name, mode|0o200); err != nil {
		return false, err
	}
	defer func() { _ = unix.Chmod(name, mode) }()
	return probe(node)
}

func (s spot) describe(name string, st *unix.Stat_t) string {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "a regular file"
	case unix.S_IFDIR:
		return "a folder"
	case unix.S_IFIFO:
		return "a FIFO"
	case unix.S_IFCHR, unix.S_IFBLK:
		return "a device"
	case unix.S_IFSOCK:
		return "a socket"
	case unix.S_IFLNK:
		if target, err := s.ReadLink(name); err == nil {
			return fmt.Sprintf("a symbolic link to %q", target)
		}
		return "a symbolic link"
	}
	return "something unknown"
}

func (s spot) describeLive(name string) string {
	rows := unixRows(s.at(name))
	if id, err := s.id(name); err == nil {
		if exact := boundTo(id, rows); exact != nil {
			rows = exact // others were bound to a node that is gone, perhaps ours
		}
	}
	if st, err := s.Stat(name); err == nil && len(rows) > 0 {
		rows[0].uid = strconv.Itoa(int(st.Uid)) // who made it, unless it has been given away
	}
	who, _, _ := strings.Cut(strings.TrimPrefix(holders(rows), "held by "), ";") // what helps is said behind it
	if who == "" {
		return "a live socket"
	}
	return "a live socket of " + who
}
