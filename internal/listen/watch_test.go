package listen

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
	"activator/internal/spec"
)

// TestForget does not call for what was forgotten or closed, and a description
// that a service still has leaves nothing in the epoll. A closed one hears nobody by it.
func TestForget(t *testing.T) {
	w := start(t)
	marker := open(t, fmt.Sprintf("udp://127.0.0.1:%d", ktest.Port(t)))
	for closed, how := range []func(*Socket){func(s *Socket) { w.ForgetSocket(s) }, func(s *Socket) { s.Close() }} {
		s := open(t, fmt.Sprintf("tcp://127.0.0.1:%d", ktest.Port(t)))
		fired := arm(t, w, s)
		file, err := s.Lend()
		if err != nil {
			t.Fatal(err)
		}
		fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			t.Fatal(err)
		}
		address := s.Spec().Address
		how(s)
		c, err := dial(t, address)
		if closed == 1 && !errors.Is(err, unix.ECONNREFUSED) || closed == 0 && err != nil {
			t.Fatal(err)
		}
		// The watcher has seen later events than that client.
		passed := arm(t, w, marker)
		answer := client(t, marker)
		expect(t, "marker", passed)
		serveOne(t, marker)
		answer()
		if c != nil {
			c.Close()
		}
		unix.Close(fd)
		if len(fired) > 0 {
			t.Error("called")
		}
	}
}

// TestManySockets arms thousands with one goroutine and one descriptor each.
func TestManySockets(t *testing.T) {
	const many = 2000
	sockets := openMany(t, many)
	w := start(t)
	var mu sync.Mutex
	fired := make(map[int]int)
	all := make(chan struct{})
	for i, s := range sockets {
		err := w.WaitReadable(s, func() {
			mu.Lock()
			defer mu.Unlock()
			fired[i]++
			if len(fired) == many {
				close(all)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WatchNode(s, func() {}); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range sockets {
		if s.Spec().Address.Network == spec.UnixGram {
			sendOne(t, s.node.path)
			continue
		}
		c, err := dial(t, s.Spec().Address)
		if err != nil {
			t.Fatal(err)
		}
		c.Close() // gone already, and waits in the queue all the same
	}
	expect(t, "all sockets", all)
	mu.Lock()
	defer mu.Unlock()
	for i, n := range fired {
		if n != 1 {
			t.Errorf("%s: called %d times", sockets[i], n)
		}
	}
}

// openMany opens sockets in ten folders, of two kinds in turn.
func openMany(t *testing.T, many int) []*Socket {
	t.Helper()
	raiseLimit(t, uint64(many)+200)
	dir := t.TempDir()
	var specs []spec.Socket
	for i := range many {
		network, folder := "unix", fmt.Sprintf("%s/%d", dir, i%10)
		if i%2 == 0 {
			network = "unixgram"
		}
		specs = append(specs, socketSpec(t, fmt.Sprintf("%s://%s/%d", network, folder, i)))
	}
	sockets, err := OpenAll(t.Context(), specs, Means{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, s := range sockets {
			s.Close()
		}
	})
	return sockets
}

// sendOne sends a datagram from a socket of its own: what waits unread counts
// against the buffer of its sender.
func sendOne(t *testing.T, path string) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
}

func raiseLimit(t *testing.T, n uint64) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < n {
		limit.Cur = min(n, limit.Max)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < n {
			t.Skipf("limit of open files is %d, %v", limit.Max, err)
		}
	}
}

// TestIdle holds that nothing wakes the watcher while a service serves: a socket
// that is not armed is in no poller, ours or the runtime's.
func TestIdle(t *testing.T) {
	w := start(t)
	s := open(t, fmt.Sprintf("tcp://127.0.0.1:%d", ktest.Port(t)))
	fired := arm(t, w, s)
	answer := client(t, s)
	expect(t, s.String(), fired)
	serveOne(t, s)
	answer()
	file, err := s.Lend()
	if err != nil {
		t.Fatal(err)
	}
	target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	infos, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range infos {
		// "tfd: 8 events: 19 data: 1 pos:0 ino:1f sdev:9": proc_pid_fdinfo(5).
		data, _ := os.ReadFile(info)
		if strings.Contains(string(data), fmt.Sprintf(" ino:%x ", st.Ino)) {
			t.Errorf("%s is in the epoll of fd %s:\n%s", target, filepath.Base(info), data)
		}
	}
}

// TestRunAgain ends Run by its context and by Close, and starts it again.
func TestRunAgain(t *testing.T) {
	w, err := NewWatcher(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, fmt.Sprintf("udp://127.0.0.1:%d", ktest.Port(t)))
	for range 3 {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		fired := arm(t, w, s)
		answer := client(t, s)
		expect(t, s.String(), fired)
		serveOne(t, s)
		answer()
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- w.Run(context.Background()) }()
	arm(t, w, s)
	for range 2 {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := <-ended; err == nil {
		t.Error("Run of a closed watcher ended without an error")
	}
	if err := w.WaitReadable(s, func() {}); err == nil {
		t.Error("a closed watcher waits")
	}
	if err := w.WatchNode(s, func() {}); err != nil {
		t.Errorf("WatchNode of a socket without a node: %v", err)
	}
}
