package proc

import (
	"fmt"
	"os"
	"strings"
)

// Watch is an entry of an epoll: the descriptor's number, the events and the data.
type Watch struct {
	Number int
	Events uint32
	Data   uint64
}

// ListWatches lists the entries of an epoll that a process or a thread has at a descriptor.
func ListWatches(pid, epoll int) (watches []Watch) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, epoll))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		if w, ok := parseWatch(line); ok {
			watches = append(watches, w)
		}
	}
	return watches
}

// parseWatch reads a line of an epoll's proc_pid_fdinfo(5).
func parseWatch(line string) (w Watch, ok bool) {
	n, err := fmt.Sscanf(line, "tfd: %d events: %x data: %x", &w.Number, &w.Events, &w.Data)
	return w, n == 3 && err == nil && w.Number >= 0
}
