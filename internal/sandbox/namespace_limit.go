package sandbox

import (
	"strconv"

	"golang.org/x/sys/unix"

	"activator/internal/process/vfork"
	"activator/internal/spec"
)

// NamespaceLimitName is the kernel's setting of how much of a resource, a [spec.NamespaceLimit], the user namespace of whoever
// opens it may have: namespaces(7).
func NamespaceLimitName(resource string) string { return "user.max_" + resource }

// LimitNamespace says what the user namespace of the sandbox may have. It counts for the owner of the namespace too,
// so one service could use up what is there for all of them.
func (p *Plan) LimitNamespace(limits []spec.Limit) { p.limits = limits }

// limitNamespace sets the limits by the fresh /proc, below the working directory, before that is closed to writing. A kernel that
// does not count something has no file for it. What was configured for the host's /proc (read-only in a container) is not in the way.
func (b *builder) limitNamespace() {
	for _, l := range b.limits {
		fd, next := uintptr(b.NextDescriptor()), b.NewLabel()
		text := []byte(strconv.FormatUint(min(l.Hard, 1<<31-1), 10))
		b.Do(unix.SYS_OPENAT, vfork.WorkingDirectory, b.AddText("proc/sys/user/max_"+l.Resource), unix.O_WRONLY|unix.O_CLOEXEC, 0).OnError(next)
		b.Do(unix.SYS_WRITE, fd, b.AddBytes(text), uintptr(len(text))).IgnoreErrors()
		b.Do(unix.SYS_CLOSE, fd)
		b.PlaceLabel(next)
	}
}
