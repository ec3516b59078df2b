package budget

import (
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
)

func TestMain(m *testing.M) { ktest.Main(m) }

// limited sets the soft limit for the test.
func limited(t *testing.T, soft uint64) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: soft, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
			t.Fatal(err)
		}
	})
}

// greed takes all that there is for s.
func greed(s *Share) {
	for n := s.Room(); n > 0; n = s.Room() {
		s.Take(n)
	}
}

// However many are greedy, who comes later finds something left, and the reserve is there.
func TestLaterShareFindsRoom(t *testing.T) {
	limited(t, 1024)
	const total = 1024 - 256
	var shares [6]Share
	for i := range shares {
		s := &shares[i]
		defer s.Close()
		if n := s.Room(); n < total>>(i+1) {
			t.Errorf("share %d finds room for %d of %d", i, n, total)
		}
		greed(s)
		if Taken() > total {
			t.Errorf("%d shares have taken %d of %d", i+1, Taken(), total)
		}
	}
	if first := shares[0].Taken(); first != total/2 {
		t.Errorf("the first has %d of %d", first, total)
	}
}

// Where nothing is left a share gets a few of the reserve, and all together half of it.
func TestLeast(t *testing.T) {
	limited(t, 1024)
	const total, reserve = 1024 - 256, 256
	var full Share
	defer full.Close()
	full.Take(total)
	var shares [100]Share
	for i := range shares {
		s := &shares[i]
		defer s.Close()
		greed(s)
		if got := s.Taken(); got != least && i < reserve/2/least {
			t.Errorf("share %d has %d", i, got)
		}
	}
	if got := Taken() - total; got != reserve/2 {
		t.Errorf("they have %d of the reserve", got)
	}
}

// What the activator needs itself is not for clients.
func TestKeep(t *testing.T) {
	limited(t, 1024)
	var s, before Share
	defer s.Close()
	before.Take(3)
	ReserveFor(0)
	own := 1024 - 256 - 2*s.Room() - 3
	if own < 3 || own > 100 {
		t.Errorf("it has %d descriptors itself", own)
	}
	before.Close()
	ReserveFor(256/perService + 10)
	defer func() { all.own = 0 }()
	greed(&s)
	if got, want := s.Taken(), (1024-256-own-3-10*perService)/2; got < want-1 || got > want+1 {
		t.Errorf("%d, not %d", got, want)
	}
}

// Who waits is called once, when there is room for what was asked, and not after Close.
func TestAwait(t *testing.T) {
	limited(t, 64)
	var full, waits, closed Share
	defer full.Close()
	defer waits.Close()
	greed(&waits)
	full.Take(48)
	called := 0
	waits.Await(2, func() { called++ })
	closed.Take(least)
	closed.Await(2, func() { t.Error("called after Close") })
	closed.Close()
	if called != 0 {
		t.Error("called without room")
	}
	full.Give(48)
	if called != 0 || waits.Room() >= 2 {
		t.Errorf("called %d times with room for %d: it has all that it may", called, waits.Room())
	}
	waits.Give(1)
	waits.Give(10)
	waits.Give(10)
	if called != 1 {
		t.Errorf("called %d times", called)
	}
	waits.Await(2, func() { called++ })
	if called != 2 {
		t.Error("not called at once")
	}
}

// What is made in advance does not use up the reserve.
func TestAhead(t *testing.T) {
	for soft, want := range map[uint64]int{20: 1, 512: 8, 1024: 16} {
		limited(t, soft)
		if got := LimitAhead(); got != want {
			t.Errorf("limit %d: %d, not %d", soft, got, want)
		}
	}
}

// Nothing is said as long as some descriptors are free, however many are open.
func TestCheck(t *testing.T) {
	var open []int
	for range 3 + few { // each the lowest one that is free
		n, err := unix.FcntlInt(0, unix.F_DUPFD, 0)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, n)
	}
	for i, n := range open {
		if i >= 3 {
			_ = unix.Close(n)
		} else {
			defer unix.Close(n)
		}
	}
	limited(t, uint64(open[len(open)-1])+1)
	if err := CheckLimit(); err != nil {
		t.Error(err)
	}
	limited(t, uint64(open[len(open)-1]))
	if err := CheckLimit(); err == nil {
		t.Error("no error")
	}
}
