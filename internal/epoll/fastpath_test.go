package epoll

import (
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/ktest"
)

func TestMain(m *testing.M) { ktest.Main(m) }

// stand is a loop that waits for the end of a pipe.
type stand struct {
	*testing.T
	loop     *Loop
	id       ID
	read     *os.File // watched
	write    *os.File
	near     *os.File // what a fast path sends to
	far      *os.File
	events   chan Event
	finished chan struct{}
}

func open(t *testing.T) *stand {
	t.Helper()
	loop, err := NewLoop()
	if err != nil {
		t.Fatal(err)
	}
	s := &stand{T: t, loop: loop, events: make(chan Event, 10000), finished: make(chan struct{})}
	if s.read, s.write, err = os.Pipe(); err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.near, s.far = os.NewFile(uintptr(pair[0]), "near"), os.NewFile(uintptr(pair[1]), "far")
	s.id = loop.NewID()
	s.control(unix.EPOLL_CTL_ADD)
	go func() {
		defer close(s.finished)
		for {
			events, err := loop.Wait()
			if err != nil {
				t.Error(err)
			}
			if err != nil || len(events) == 0 { // it was rung
				return
			}
			for _, e := range events {
				s.events <- e
			}
		}
	}()
	t.Cleanup(func() {
		loop.WakeUp()
		<-s.finished
		loop.Close()
		for _, f := range []*os.File{s.read, s.write, s.near, s.far} {
			f.Close()
		}
	})
	return s
}

func (s *stand) control(op int) {
	s.Helper()
	if err := s.loop.Control(op, s.read, s.id, unix.EPOLLIN|unix.EPOLLONESHOT); err != nil {
		s.Fatal(err)
	}
}

func (s *stand) fastPath() *FastPath {
	s.Helper()
	r, err := NewFastPath(s.near, 'g')
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(r.Close)
	return r
}

// poke makes the pipe readable, and returns what the loop says about it.
func (s *stand) poke() Event {
	s.Helper()
	if _, err := s.write.Write([]byte{0}); err != nil {
		s.Fatal(err)
	}
	select {
	case e := <-s.events:
		var one [1]byte
		if _, err := s.read.Read(one[:]); err != nil {
			s.Fatal(err)
		}
		s.control(unix.EPOLL_CTL_MOD)
		return e
	case <-time.After(5 * time.Minute):
		s.Fatal("no event")
		return Event{}
	}
}

// readNow reads up to most bytes of what is there.
func readNow(s *stand, f *os.File, most int) []byte {
	s.Helper()
	b := make([]byte, most)
	n, _ := unix.Read(number(s, f), b)
	return b[:max(n, 0)]
}

// sent is what has come at the far end.
func (s *stand) sent() string {
	return string(readNow(s, s.far, 10))
}

func inode(t *testing.T, path string, timed bool) Inode {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		t.Fatal(err)
	}
	i := Inode{Dev: uint64(stat.Dev), Ino: stat.Ino}
	if timed {
		i.Mtime = stat.Mtim
	}
	return i
}

func TestOnceAndOnlyWhenArmed(t *testing.T) {
	s := open(t)
	r := s.fastPath()
	if e := s.poke(); e.Answered || e.ID != s.id || s.sent() != "" {
		t.Fatalf("not armed: %+v", e)
	}
	s.loop.ArmFastPath(r, s.id)
	if _, _, fired := s.loop.DisarmFastPath(r, s.id); fired {
		t.Error("fired without an event")
	}
	if e := s.poke(); e.Answered || s.sent() != "" {
		t.Errorf("disarmed: %+v", e)
	}
	before := time.Now()
	s.loop.ArmFastPath(r, 0, s.id)
	if e := s.poke(); !e.Answered {
		t.Errorf("armed: %+v", e)
	}
	after := time.Now()
	if by, at, fired := s.loop.DisarmFastPath(r, s.id); !fired || by != 1 || at.Before(before) || at.After(after) {
		t.Errorf("by %d, at %v of %v to %v, %v", by, at, before, after, fired)
	}
	s.loop.ArmFastPath(r, s.id) // it has been done
	if e := s.poke(); e.Answered {
		t.Error("fired twice")
	}
	if got := s.sent(); got != "g" {
		t.Errorf("sent %q", got)
	}
}

// The ID of a descriptor that is gone is nobody's, also when its slot is another's.
func TestOldID(t *testing.T) {
	s := open(t)
	r := s.fastPath()
	s.loop.FreeID(s.id)
	next := s.loop.NewID()
	if uint32(next) != uint32(s.id) || next == s.id {
		t.Fatalf("%#x after %#x", next, s.id)
	}
	s.loop.ArmFastPath(r, next)
	if e := s.poke(); e.Answered || s.sent() != "" {
		t.Errorf("%+v", e)
	}
	s.loop.DisarmFastPath(r, next)
}

// Whatever has changed, nothing is sent.
func TestChecks(t *testing.T) {
	dir := t.TempDir()
	file, gone := filepath.Join(dir, "file"), filepath.Join(dir, "gone")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(path string) { must(os.WriteFile(path, []byte("x"), 0o600)) }
	replace := func() {
		write(file + ".new")
		must(os.Rename(file+".new", file))
	}
	var counter uint64
	for _, test := range []struct {
		name   string
		make   func(*stand, *FastPath)
		change func(*stand) // nil: nothing changes
		sends  bool
	}{
		{"same file", func(s *stand, r *FastPath) { r.AddPath(file, inode(t, file, false)) }, nil, true},
		{"file written to", func(s *stand, r *FastPath) { r.AddPath(file, inode(t, file, false)) }, func(*stand) { write(file) }, true},
		{"file replaced", func(s *stand, r *FastPath) { r.AddPath(file, inode(t, file, false)) }, func(*stand) { replace() }, false},
		{"file removed", func(s *stand, r *FastPath) { r.AddPath(file, inode(t, file, false)) }, func(*stand) { must(os.Remove(file)) }, false},
		{"nothing there", func(s *stand, r *FastPath) { r.AddPath(gone, Inode{}) }, nil, remembersMissing(gone)},
		{"something came", func(s *stand, r *FastPath) { r.AddPath(gone, Inode{}) }, func(*stand) { write(gone) }, false},
		{"folder listed", func(s *stand, r *FastPath) { r.AddPath(dir, inode(t, dir, true)) }, nil, true},
		{"folder has more", func(s *stand, r *FastPath) { r.AddPath(dir, inode(t, dir, true)) }, func(*stand) { write(dir + "/more") }, false},
		{"folder changed and changed back", func(s *stand, r *FastPath) {
			want := inode(t, dir, false)
			var stat unix.Stat_t
			must(unix.Stat(dir, &stat))
			want.Ctime = stat.Ctim
			r.AddPath(dir, want)
		}, func(*stand) {
			before, err := os.Stat(dir)
			must(err)
			replace()
			must(os.Chtimes(dir, before.ModTime(), before.ModTime()))
		}, false},
		{"second path", func(s *stand, r *FastPath) {
			r.AddPath("/", inode(t, "/", false))
			r.AddPath(file, inode(t, file, false))
		}, func(*stand) { replace() }, false},
		{"quiet", func(s *stand, r *FastPath) { r.AddQuiet(dup(s, s.far), unix.POLLIN) }, nil, true},
		{"not quiet", func(s *stand, r *FastPath) { r.AddQuiet(dup(s, s.far), unix.POLLIN) },
			func(s *stand) { _, _ = s.near.Write([]byte("!")) }, false},
		{"other end closed", func(s *stand, r *FastPath) { r.AddOpen(number(s, s.far), &counter) }, func(s *stand) { _ = unix.Shutdown(number(s, s.near), unix.SHUT_RDWR) }, false},
		{"counter", func(s *stand, r *FastPath) { r.AddOpen(number(s, s.far), &counter) }, func(*stand) { atomic.AddUint64(&counter, 1) }, false},
		{"nobody there", func(s *stand, r *FastPath) {}, func(s *stand) { s.far.Close() }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			_ = os.Remove(gone)
			write(file)
			s := open(t)
			r := s.fastPath()
			test.make(s, r)
			if test.change != nil {
				// The time of a folder is as coarse as the clock's tick.
				time.Sleep(10 * time.Millisecond)
				test.change(s)
			}
			s.loop.ArmFastPath(r, s.id)
			for range 3 { // what the kernel has forgotten of a path is looked up by this
				_, _ = os.Stat(file)
				_, _ = os.Stat(gone)
			}
			if e := s.poke(); e.Answered != test.sends {
				t.Errorf("%+v", e)
			}
			if _, _, fired := s.loop.DisarmFastPath(r, s.id); fired != test.sends {
				t.Error("fired:", fired)
			}
		})
	}
}

// remembersMissing reports whether the kernel remembers that nothing is there, which it does not on a tmpfs: then it has to look.
func remembersMissing(path string) bool {
	_, _ = os.Stat(path)
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{Flags: unix.O_PATH, Resolve: resolveCached})
	if err == nil {
		_ = unix.Close(fd)
	}
	return err == unix.ENOENT
}

func number(s *stand, f *os.File) (number int) {
	s.Helper()
	if err := fd.Control(f, func(fd int) error { number = fd; return nil }); err != nil {
		s.Fatal(err)
	}
	return number
}

func dup(s *stand, f *os.File) int {
	s.Helper()
	fd, err := unix.FcntlInt(uintptr(number(s, f)), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		s.Fatal(err)
	}
	return fd
}

// Events come while others arm and disarm, the heap is collected and stacks move:
// each is told once, and what was sent is what fired.
func TestManyAtOnce(t *testing.T) {
	s := open(t)
	done := make(chan struct{})
	collected := make(chan struct{})
	go func() {
		defer close(collected)
		for {
			select {
			case <-done:
				return
			default:
				runtime.GC()
			}
		}
	}()
	fired := 0
	for range 1000 {
		r, err := NewFastPath(s.near, 'g')
		if err != nil {
			t.Fatal(err)
		}
		r.AddPath("/", inode(t, "/", true))
		s.loop.ArmFastPath(r, s.id)
		if _, err := s.write.Write([]byte{0}); err != nil {
			t.Fatal(err)
		}
		runtime.Gosched()
		_, _, yes := s.loop.DisarmFastPath(r, s.id)
		e := <-s.events
		if e.Answered != yes {
			t.Fatalf("%+v, and fired: %v", e, yes)
		}
		if yes {
			fired++
		}
		r.Close()
		var one [1]byte
		if _, err := s.read.Read(one[:]); err != nil {
			t.Fatal(err)
		}
		s.control(unix.EPOLL_CTL_MOD)
	}
	close(done)
	<-collected
	if n := len(readNow(s, s.far, 2000)); n != fired {
		t.Errorf("%d sent, %d fired", n, fired)
	}
	t.Logf("%d of 1000 fired", fired)
}
