package fdstore

import (
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/budget"
	"activator/internal/kernel/fd"
)

// DefaultName is the name of what is stored without one, FDNAME= of sd_notify(3).
const DefaultName = "stored"

// Store is what the instances of one service have left. Its methods may be called from any goroutine, and
// do nothing on nil.
type Store struct {
	most     int
	accepted func(inode uint64) bool

	mu    sync.Mutex
	kept  []descriptor
	share budget.Share
}

// descriptor is one of ours. It is no *os.File, which the runtime would poll: what a client sends must not
// wake us.
type descriptor struct {
	fd   int
	name string
	poll bool // it is given up when its other end is gone
	file file
}

// file tells what a descriptor is of.
type file struct {
	dev, ino uint64
	access   int // O_ACCMODE: the same memory may be there to read and to write
	socket   bool
}

// New makes a store of most descriptors; nil if that is 0. accepted reports whether the socket with an
// inode of sockfs is a connection that came to the service.
func New(most int, accepted func(inode uint64) bool) *Store {
	if most == 0 {
		return nil
	}
	return &Store{most: most, accepted: accepted}
}

// Add takes number, and keeps it if it may be kept. What is there already stays as it is. With poll it is given
// up when its other end is gone.
func (s *Store) Add(number int, name string, poll bool) error {
	what, err := s.identify(number)
	if err == nil {
		err = s.keep(descriptor{number, name, poll, what})
	}
	if err != nil {
		_ = unix.Close(number)
		if err == errKnown {
			err = nil
		}
	}
	return err
}

// errKnown says that the same is stored already.
var errKnown = fmt.Errorf("stored already")

func (s *Store) identify(number int) (what file, err error) {
	if s == nil {
		return what, fmt.Errorf("file_descriptor_store_max is 0")
	}
	var stat unix.Stat_t
	if err := unix.Fstat(number, &stat); err != nil {
		return what, os.NewSyscallError("fstat", err)
	}
	if err := checkKind(number, &stat, s.accepted); err != nil {
		return what, err
	}
	flags, err := unix.FcntlInt(uintptr(number), unix.F_GETFL, 0)
	//nolint:unconvert // 32 bits elsewhere
	return file{uint64(stat.Dev), stat.Ino, flags & (unix.O_ACCMODE | unix.O_PATH), stat.Mode&unix.S_IFMT == unix.S_IFSOCK}, os.NewSyscallError("fcntl", err)
}

func (s *Store) keep(d descriptor) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropGone()
	switch {
	case slices.ContainsFunc(s.kept, func(other descriptor) bool { return other.file == d.file }):
		return errKnown
	case len(s.kept) >= s.most:
		return fmt.Errorf("there are %d already, file_descriptor_store_max", len(s.kept))
	case s.share.Room() < 1:
		return budget.ErrNone
	}
	s.share.Take(1)
	s.kept = append(s.kept, d)
	return nil
}

// Remove closes what has the name, and returns how many there were.
func (s *Store) Remove(name string) int {
	if s == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drop(func(d descriptor) bool { return d.name == name })
}

// dropGone drops connections of which nothing more can come or go, with mu held. It is done when the store
// is looked at, so that it wakes nobody.
func (s *Store) dropGone() {
	s.drop(func(d descriptor) bool {
		return d.poll && d.file.socket && d.pollFor(0)&(unix.POLLHUP|unix.POLLERR) != 0
	})
}

// drop is called with mu held.
func (s *Store) drop(which func(descriptor) bool) (dropped int) {
	s.kept = slices.DeleteFunc(s.kept, func(d descriptor) bool {
		if !which(d) {
			return false
		}
		_ = unix.Close(d.fd)
		dropped++
		return true
	})
	s.share.Give(dropped)
	return dropped
}

func (d descriptor) pollFor(events int16) int16 {
	ready, _ := fd.Poll(d.fd, events, 0)
	return ready
}

// Copy returns descriptors of all that is stored, and their names, in the order in which they were. The caller
// closes them.
func (s *Store) Copy() (copies []int, names []string, err error) {
	if s == nil {
		return nil, nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropGone()
	for _, d := range s.kept {
		dup, err := unix.FcntlInt(uintptr(d.fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			CloseAll(copies)
			return nil, nil, os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", err)
		}
		copies, names = append(copies, dup), append(names, d.name)
	}
	return copies, names, nil
}

// CloseAll closes descriptors that were copied.
func CloseAll(copies []int) {
	for _, number := range copies {
		_ = unix.Close(number)
	}
}

// Clients returns the sockets, by inode of sockfs, of stored connections whose client waits for an answer or
// may still send something.
func (s *Store) Clients() (inodes []uint64) {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropGone()
	for _, d := range s.kept {
		if !d.file.socket {
			continue
		}
		unread, err := unix.IoctlGetInt(d.fd, unix.TIOCINQ)
		if d.pollFor(unix.POLLRDHUP)&unix.POLLRDHUP == 0 || err == nil && unread > 0 {
			inodes = append(inodes, d.file.ino)
		}
	}
	return inodes
}

// Close closes everything, and returns how many there were.
func (s *Store) Close() int {
	if s == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	dropped := s.drop(func(descriptor) bool { return true })
	s.share.Close()
	return dropped
}
