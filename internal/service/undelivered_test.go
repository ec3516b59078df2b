package service

import (
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/listen"
	"activator/internal/spec"
)

// ruin is what a program does to its socket that has read a datagram which asks for it: it
// waits for the next one, does not read it, and leaves a socket that nobody can mend.
func ruin(fd int) {
	var one [1]byte
	_, _, _ = unix.Recvfrom(fd, one[:], unix.MSG_PEEK)
	_ = unix.Shutdown(fd, unix.SHUT_RDWR) // ENOTCONN, and done
	os.Exit(0)
}

// eachRelayed is eachFirst, of the sockets that have a relay.
func eachRelayed(t *testing.T, test func(t *testing.T, f *first)) {
	eachFirst(t, func(t *testing.T, f *first) {
		if f.seal == spec.Relayed {
			test(t, f)
		}
	})
}

// A service ruins its socket while somebody waits in its queue: he is the next one's.
func TestWhoWaitsInRuinedSocket(t *testing.T) {
	eachRelayed(t, func(t *testing.T, f *first) {
		f.up("any once", nil)
		for range 3 {
			f.say("ruin")
			f.await("state=running")
			f.ask()()
			f.await("socket mended", "its relay socket is made anew")
		}
	})
}

// The relays' owner is closed, and many more clients come than a relay has flow sockets for in
// advance: all are served, by a sandbox that stands or without.
func TestOwnerIsClosed(t *testing.T) {
	for name, change := range map[string]func(*spec.Service){"cold": nil, "warm": warmed} {
		t.Run(name, func(t *testing.T) {
			eachRelayed(t, func(t *testing.T, f *first) {
				f.up("any once", change)
				if change != nil {
					f.open()()
				}
				f.ask()()
				if err := f.relays.Close(); err != nil {
					t.Fatal(err)
				}
				for range 20 {
					f.ask()()
				}
			})
		})
	}
}

// A relay that cannot be put in front has lost nobody, also if it has taken somebody already.
func TestRelayThatIsNotInFront(t *testing.T) {
	for name, take := range map[string]bool{"before it takes": false, "after it took": true} {
		t.Run(name, func(t *testing.T) {
			eachRelayed(t, func(t *testing.T, f *first) {
				answered, tries := make(chan func(), 1), 0
				f.relaySocket = func(_ *os.File, make func() (*relayed, error)) (listen.RelaySocket, error) {
					r, err := make()
					if tries++; tries > 1 || err != nil {
						return r, err
					}
					answered <- f.ask()
					if take {
						r.Run()
						f.until("the datagram is inside", func() bool { return readable(r.File()) })
					}
					null, err := os.Open(os.DevNull)
					if err != nil {
						t.Error(err)
					}
					_ = null.Close()
					return &unfit{r, null}, nil
				}
				f.up("any once", warmed)
				f.open()()
				(<-answered)()
			})
		})
	}
}

// unfit is a relay whose socket is of no use.
type unfit struct {
	*relayed
	file *os.File
}

func (u *unfit) File() *os.File { return u.file }

// say sends text, and wants no answer.
func (f *first) say(text string) {
	f.t.Helper()
	network, at, _ := strings.Cut(f.address, "://")
	c, err := net.Dial(network, at)
	if err == nil {
		_, err = c.Write([]byte(text))
		_ = c.Close()
	}
	if err != nil {
		f.t.Fatal(err)
	}
}
