package listen

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"activator/internal/kernel/fd"
	"activator/internal/spec"

	"golang.org/x/sys/unix"
)

// openFIFO opens the FIFO of spec for reading and writing, so that it never
// sees the end of file when a writer leaves, and writers never wait for a
// reader. fifo(7). A service gets it for reading alone: what it wrote, the next one
// would read. An existing FIFO is used if it is as the spec says.
func openFIFO(want spec.Socket) (boundSocket, error) {
	a, o := want.Address, &want.Options
	who, err := lookupOwner(o)
	if err != nil {
		return boundSocket{}, wrapError(a, "", err, "")
	}
	at, err := makePlace(a.Path, o)
	if err != nil {
		return boundSocket{}, wrapError(a, "", err, "")
	}
	defer at.Close()
	began := fd.CoarseTime()
	made, err := at.makeFIFO(nodeMode(o), who)
	if err != nil {
		return boundSocket{}, wrapError(a, "mkfifo", err, "")
	}
	n := &node{path: a.Path, fifo: true, made: made}
	both, reader, err := adoptFIFO(at, n, o, who, began)
	if err != nil {
		if made {
			at.removeInode(at.Name, n.id)
		}
		return boundSocket{}, wrapError(a, "", err, ownerCure(err))
	}
	// A reserve of the same inode is ours from a run that was killed.
	if at.hasInode(at.reserveName(), n.id) {
		n.made = true
	} else if n.made {
		n.makeReserve(at)
	}
	var st socketState
	_ = control(both, func(fd int) error {
		st.pipe, _ = unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0)
		st.access, _ = readFIFOAccess(fd)
		return nil
	})
	return boundSocket{file: reader, fifo: both, node: n, state: st}, nil
}

// makeFIFO reports whether it made one; what stands there is looked at later.
func (s place) makeFIFO(mode fs.FileMode, who owner) (bool, error) {
	if who.isGiven() {
		mode = 0o600 // no other user gets in before it has its owner
	}
	err := unix.Mkfifoat(s.FD(), s.Name, uint32(mode|0o600))
	if err == unix.EEXIST {
		return false, nil
	}
	if err != nil {
		return false, &fs.PathError{Op: "mkfifo", Path: s.path, Err: err}
	}
	return true, nil
}

// adoptFIFO opens n, sets n.id and what is missing of owner, mode and size
// on a FIFO we made; another one must be right already. began is when we began to make it. It returns
// it open for both, and for reading.
func adoptFIFO(at place, n *node, o *spec.Options, who owner, began unix.Timespec) (both, reader *os.File, err error) {
	st, err := at.Stat(at.Name)
	if err != nil {
		return nil, nil, &fs.PathError{Op: "stat", Path: n.path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return nil, nil, &OccupiedError{Path: n.path, What: at.describeFile(at.Name, &st)}
	}
	n.id = inode{st.Dev, st.Ino}
	// O_NONBLOCK only for opening: should the FIFO have become a device, we do
	// not wait for it.
	pipe, err := at.Open(unix.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, &fs.PathError{Op: "open", Path: n.path, Err: err}
	}
	files := [2]int{pipe, -1}
	defer func() {
		for _, file := range files {
			if err != nil && file >= 0 {
				_ = unix.Close(file)
			}
		}
	}()
	if n.made && at.Movable() && !fd.IsBornSince(pipe, began) {
		return nil, nil, &OccupiedError{Path: n.path, What: "an older FIFO than the one just made, or one on a pipe system that does not tell when,"}
	}
	// Before it gets its mode, which may keep us from reading it.
	if files[1], err = unix.Open(fd.LinkOf(pipe), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0); err != nil {
		return nil, nil, &fs.PathError{Op: "open for reading", Path: n.path, Err: err}
	}
	if err := setUpFIFO(at, pipe, n, o, who); err != nil {
		return nil, nil, err
	}
	// Blocking: see newSocket.
	for _, file := range files {
		if err := unix.SetNonblock(file, false); err != nil {
			return nil, nil, os.NewSyscallError("fcntl", err)
		}
	}
	return os.NewFile(uintptr(pipe), n.path), os.NewFile(uintptr(files[1]), n.path), nil
}

const curePipeSize = "more than sysctl fs.pipe-max-size needs CAP_SYS_RESOURCE"

func setUpFIFO(at place, fd int, n *node, o *spec.Options, who owner) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: n.path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFIFO || n.made && at.isStrange(&st) {
		return &OccupiedError{Path: n.path, What: at.describeFile(at.Name, &st)}
	}
	n.id = inode{st.Dev, st.Ino}
	mode := nodeMode(o)
	var err error
	switch wrong := checkFIFO(n.path, &st, mode, who); {
	case n.made:
		err = setFIFOAccess(fd, n.path, mode, who)
	case at.isLeft(n.id):
		_ = unix.Fremovexattr(fd, aclName)
		if wrong != nil {
			err = setFIFOAccess(fd, n.path, mode, who)
		}
	default:
		err = wrong
	}
	if err != nil {
		return err
	}
	if o.PipeSize > 0 {
		return setPipeSize(fd, o.PipeSize)
	}
	return nil
}

func setPipeSize(fd, size int) error {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, size)
	switch err = os.NewSyscallError("fcntl", err); {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("pipe_size: %w: %s", err, curePipeSize)
	case err != nil:
		return fmt.Errorf("pipe_size: %w", err)
	}
	return nil
}

// checkFIFO refuses a FIFO that lets in others than the configuration says: it
// may have been put there for that.
func checkFIFO(path string, st *unix.Stat_t, mode fs.FileMode, who owner) error {
	uid := who.uid
	if uid < 0 {
		uid = os.Geteuid()
	}
	switch {
	case int(st.Uid) != uid:
		return &OccupiedError{Path: path, What: fmt.Sprintf("a FIFO of uid %d, not of %d,", st.Uid, uid)}
	case who.gid >= 0 && int(st.Gid) != who.gid:
		return &OccupiedError{Path: path, What: fmt.Sprintf("a FIFO of group %d, not of %d,", st.Gid, who.gid)}
	case fs.FileMode(st.Mode).Perm() != mode:
		return &OccupiedError{Path: path, What: fmt.Sprintf("a FIFO with mode %04o, not %04o,", st.Mode&0o777, mode)}
	}
	return nil
}
