package listen

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
	"activator/internal/spec"
)

// unwatched are ways in which a socket that is armed may come to have nobody who looks
// at its queue.
var unwatched = map[string]func(t *testing.T, w *Watcher, s *Socket){
	"its event was taken and told to nobody": func(t *testing.T, w *Watcher, s *Socket) {
		w.mu.Lock()
		defer w.mu.Unlock()
		x := &s.interest
		if err := w.loop.Control(unix.EPOLL_CTL_MOD, x.file, x.id, unix.EPOLLONESHOT); err != nil {
			t.Fatal(err)
		}
	},
	"its descriptor could not be moved": func(t *testing.T, w *Watcher, s *Socket) { s.interest.leaveFile() },
	"its entry is gone": func(t *testing.T, w *Watcher, s *Socket) {
		w.mu.Lock()
		defer w.mu.Unlock()
		x := &s.interest
		if err := w.loop.Control(unix.EPOLL_CTL_DEL, x.file, x.id, 0); err != nil {
			t.Fatal(err)
		}
	},
}

// To arm a socket that is armed has its queue asked once more, whatever became of what
// had been asked before: a client who came meanwhile is told of, and who comes next.
func TestArmedIsAskedAgain(t *testing.T) {
	w := start(t)
	for _, address := range addresses(t) {
		for how, lose := range unwatched {
			for _, early := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s %s early=%v", address, how, early), func(t *testing.T) {
					s := open(t, address)
					arm(t, w, s)
					lose(t, w, s)
					answer := func() {}
					if early {
						answer = client(t, s)
					}
					fired := arm(t, w, s)
					if !early {
						answer = client(t, s)
					}
					expect(t, s.String(), fired)
					serveOne(t, s)
					answer()
				})
			}
		}
	}
}

// So has a relay, of the host's queue.
func TestRelayIsAskedAgain(t *testing.T) {
	w, r := start(t), &relays{t: t}
	s := openWith(t, fmt.Sprint("udp://127.0.0.1:", ktest.Port(t)), spec.Relayed, r.means())
	arm(t, w, s)
	if _, err := s.LendAhead(); err != nil {
		t.Fatal(err)
	}
	before := r.last.asked.Load()
	arm(t, w, s)
	if r.last.asked.Load() != before+1 {
		t.Error("the relay was not asked")
	}
}

// A sandbox that stands has the socket while somebody is turned away: its program finds
// the status flags of the specification.
func TestRefuseKeepsFlags(t *testing.T) {
	for _, address := range addresses(t) {
		for _, nonBlocking := range []bool{false, true} {
			s := open(t, address, func(o *spec.Options) { o.NonBlocking = nonBlocking })
			file, err := s.LendAhead()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.RefuseClients(1); err != nil {
				t.Fatal(err)
			}
			_ = control(file, func(fd int) error {
				flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
				if err != nil || flags&unix.O_NONBLOCK != 0 != nonBlocking {
					t.Errorf("%s: flags %#x, %v; want O_NONBLOCK %v", address, flags, err, nonBlocking)
				}
				return nil
			})
			s.Close()
		}
	}
}
