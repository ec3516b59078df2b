package cgroup

import (
	"errors"
	"os"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// Group is a cgroup below our own. Its lock (flock(2)) tells others that it is in use: it ends with
// us, however we end.
type Group struct {
	parent, dir *os.File
	name        string
	killed      atomic.Int64 // processes, as far as they have been told of
}

// errRace says that another process took a new group for a stale one.
var errRace = errors.New("removed by somebody else")

// MakeError says that a group cannot be made, where ours can be found.
type MakeError struct{ Err error }

func (e *MakeError) Error() string { return e.Err.Error() }
func (e *MakeError) Unwrap() error { return e.Err }

// Make makes a group. The caller closes it.
func (h *Hierarchy) Make() (*Group, error) {
	parent, err := h.OpenOwn()
	if err != nil {
		return nil, err
	}
	for range 8 {
		g := &Group{parent: parent, name: h.prefix + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatUint(h.made.Add(1), 10)}
		if err = g.makeDirectory(); err == nil {
			return g, nil
		}
		if !errors.Is(err, unix.EEXIST) && err != errRace {
			break
		}
	}
	_ = parent.Close()
	return nil, &MakeError{err}
}

// MakeBelow makes a group below this one. The caller closes it.
func (g *Group) MakeBelow(name string) (*Group, error) {
	parent, err := openDirectory(g.dir, ".")
	if err != nil {
		return nil, err
	}
	below := &Group{parent: parent, name: name}
	if err := below.makeDirectory(); err != nil {
		_ = parent.Close()
		return nil, err
	}
	return below, nil
}

func (g *Group) makeDirectory() error {
	err := fd.Control(g.parent, func(parent int) error { return unix.Mkdirat(parent, g.name, 0o700) })
	if err != nil {
		return &os.PathError{Op: "mkdir", Path: g.name, Err: err}
	}
	if g.dir, err = openDirectory(g.parent, g.name); err != nil {
		return errRace
	}
	if !lockDirectory(g.dir) || !g.IsCurrent() {
		_ = g.dir.Close()
		return errRace
	}
	return nil
}

// IsCurrent reports whether the name still leads to the directory that we opened.
func (g *Group) IsCurrent() bool {
	opened, err := g.dir.Stat()
	if err != nil {
		return false
	}
	again, err := openDirectory(g.parent, g.name)
	if err != nil {
		return false
	}
	defer func() { _ = again.Close() }()
	found, err := again.Stat()
	return err == nil && os.SameFile(opened, found)
}

// Dir lends the group's directory, until Close.
func (g *Group) Dir() *os.File { return g.dir }

// Close removes the directory; the cgroup itself lives on, out of sight, while sockets of it are
// open. One that cannot be removed is left to Sweep.
func (g *Group) Close() {
	_ = removeDirectory(g.parent, g.name)
	_ = g.dir.Close()
	_ = g.parent.Close()
}

// sweepGroup removes a group that nobody has locked, and those below it.
func sweepGroup(parent *os.File, name string) {
	dir, err := openDirectory(parent, name)
	if err != nil {
		return
	}
	defer func() { _ = dir.Close() }()
	if !lockDirectory(dir) {
		return
	}
	entries, _ := dir.ReadDir(-1)
	for _, below := range entries {
		if below.IsDir() {
			sweepGroup(dir, below.Name())
		}
	}
	_ = removeDirectory(parent, name)
}

// lockDirectory takes the lock of an open directory if it is free.
func lockDirectory(dir *os.File) bool {
	return fd.Control(dir, func(dir int) error {
		return fd.RetryEINTR(func() error { return unix.Flock(dir, unix.LOCK_EX|unix.LOCK_NB) })
	}) == nil
}

func removeDirectory(parent *os.File, name string) error {
	return fd.Control(parent, func(parent int) error { return unix.Unlinkat(parent, name, unix.AT_REMOVEDIR) })
}
