package epoll

import (
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// FastPath sends a byte if nothing has changed. It may be armed and disarmed many
// times and sends once.
type FastPath struct {
	paths   []path
	quiet   []unix.PollFd
	counter *uint64 // nil: none
	count   uint64  // what it must be
	to      int
	word    [1]byte
	files   []int // ours

	armed bool // this and below, with the loop's lock
	fired bool
	by    int32
	at    int64 // CLOCK_MONOTONIC, nanoseconds

	how  unix.OpenHow // what the system calls write to, or read
	stat unix.Stat_t
	now  unix.Timespec
}

const resolveCached = 0x20 // RESOLVE_CACHED of linux/openat2.h

// path is what must stand at a path.
type path struct {
	name []byte // ends with 0
	want Inode
	fd   int32 // it has been opened; 0: it has not
}

// Inode says what stands at a path.
type Inode struct {
	Dev, Ino uint64        // 0, 0: nothing
	Mtime    unix.Timespec // zero: any
	Ctime    unix.Timespec // zero: any
}

// InodeOf is a file's, without its time. nil is no file's.
func InodeOf(info os.FileInfo) Inode {
	if info == nil {
		return Inode{}
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return Inode{}
	}
	return Inode{Dev: uint64(stat.Dev), Ino: stat.Ino} //nolint:unconvert // 32 bits elsewhere
}

// NewFastPath makes a fast path that sends word to a socket. It shares to: close it, and the
// fast path has it still, until Close.
func NewFastPath(to *os.File, word byte) (*FastPath, error) {
	r := &FastPath{word: [1]byte{word}, to: -1}
	// Only what is in the kernel's memory is looked at: neither a disk nor another
	// machine is waited for (openat2(2), Linux 5.12).
	r.how = unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: resolveCached}
	var err error
	if r.to, err = fd.DupFile(to); err != nil {
		return nil, err
	}
	r.files = append(r.files, r.to)
	return r, nil
}

// AddPath has it send only while want stands at a path.
func (r *FastPath) AddPath(name string, want Inode) {
	r.paths = append(r.paths, path{append([]byte(name), 0), want, 0})
}

// AddQuiet has it send only while poll(2) of fd, which it takes, has none of events to
// tell of.
func (r *FastPath) AddQuiet(fd int, events int16) {
	r.files = append(r.files, fd)
	r.quiet = append(r.quiet, unix.PollFd{Fd: int32(fd), Events: events})
}

// AddOpen has it send only while poll(2) does not say that the other end of a socket
// has been closed. Lends fd: before it is closed, its owner adds to counter, atomically.
func (r *FastPath) AddOpen(fd int, counter *uint64) {
	r.quiet = append(r.quiet, unix.PollFd{Fd: int32(fd)})
	r.counter, r.count = counter, atomic.LoadUint64(counter)
}

// Close gives back what it has. It must not be armed. Twice is fine, and so is nil.
func (r *FastPath) Close() {
	if r == nil {
		return
	}
	r.closePaths()
	for _, fd := range r.files {
		_ = unix.Close(fd)
	}
	r.files, r.to = nil, -1
}

// closePaths closes what has been looked at, which the client did not have to wait for.
func (r *FastPath) closePaths() {
	for i := range r.paths {
		if p := &r.paths[i]; p.fd != 0 {
			_ = unix.Close(int(p.fd))
			p.fd = 0
		}
	}
}
