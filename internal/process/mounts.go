package process

import (
	"io"
	"os"
	"sync"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// mount is one line of /proc/PID/mountinfo, proc_pid_mountinfo(5).
type mount struct {
	id    int // not given to another mount as long as this one is there
	point string
}

const mountinfoFile = "/proc/self/mountinfo"

// mountTable is what is mounted on the host, read anew when it has changed: the
// kernel counts changes, and poll(2) of the file tells whether there were any since
// the last one (mounts_poll in fs/proc_namespace.c). The zero value is ready.
type mountTable struct {
	mu    sync.Mutex
	file  *os.File
	known []mount
}

// currentMounts returns the mounts, in memory that is never changed; the same memory if
// nothing has changed. Without /proc it is empty.
func (t *mountTable) currentMounts() []mount {
	t.mu.Lock()
	defer t.mu.Unlock()
	first := t.file == nil
	if first {
		// Not in the runtime's poller: it would be woken by every mount.
		fd, err := unix.Open(mountinfoFile, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil
		}
		t.file = os.NewFile(uintptr(fd), "mountinfo")
	}
	// Asked also the first time, before it is read: what changes meanwhile shows at
	// the next.
	if haveChanged(t.file) || first {
		t.known = readMounts(t.file)
	}
	return t.known
}

func haveChanged(file *os.File) bool {
	events, _ := fd.PollFile(file, unix.POLLPRI, 0)
	return events != 0
}

// readMounts keeps what comes before a line that is none: the kernel writes no such line.
func readMounts(file io.ReaderAt) (all []mount) {
	keep := func(m *mountinfo.Info) (skip, stop bool) {
		all = append(all, mount{m.ID, m.Mountpoint})
		return true, false
	}
	_, _ = mountinfo.GetMountsFromReader(io.NewSectionReader(file, 0, 1<<30), keep)
	return all
}

func (t *mountTable) closeTable() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file != nil {
		_ = t.file.Close()
		t.file = nil
	}
}
