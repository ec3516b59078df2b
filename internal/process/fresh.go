package process

import (
	"os"

	"golang.org/x/sys/unix"

	"activator/internal/epoll"
)

// IsFresh reports whether a process that waits, prepared for an absent client, would be
// prepared with the same files and mounts of the host again. It takes a few
// microseconds; false makes the process of no use: Close it and prepare another. What
// is mounted was opened long ago: a path that is bent now can only make it false.
func (p *Process) IsFresh() bool {
	t := &p.host
	for i := range t.stats {
		if statOf(t.stats[i].path, t.stats[i].listed) != t.stats[i] {
			return false
		}
	}
	return t.mounts == nil || t.sameMounts(t.mounts.currentMounts())
}

// NewFastPath is what IsFresh and Release do of a process that waits, as far as it takes
// neither another thread nor waiting; nil: it has to be done by them. The caller
// closes it.
func (p *Process) NewFastPath() (*epoll.FastPath, error) {
	r, err := epoll.NewFastPath(p.control, msgGo)
	if err != nil {
		return nil, err
	}
	if p.host.mounts != nil {
		// One of its own: what has changed is told once. Before it is asked whether
		// anything has until now.
		fd, err := unix.Open(mountinfoFile, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			r.Close()
			return nil, &os.PathError{Op: "open", Path: mountinfoFile, Err: err}
		}
		r.AddQuiet(fd, unix.POLLPRI)
	}
	for _, i := range p.host.listInodes() {
		r.AddPath(i.path, i.Inode)
	}
	if !p.addGuard(r) || !p.IsFresh() {
		r.Close()
		return nil, nil
	}
	return r, nil
}
