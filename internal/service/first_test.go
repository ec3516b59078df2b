package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/ktest"
	"activator/internal/listen"
	"activator/internal/netns"
	"activator/internal/seal/udprelay"
	"activator/internal/spec"
)

// answerOne is a program that serves one client of any kind of socket, and ends.
func answerOne(file *os.File) {
	fd := int(file.Fd())
	var buf [64]byte
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	switch {
	case err != nil: // a FIFO
		_, err = unix.Read(fd, buf[:])
	case kind == unix.SOCK_STREAM:
		if fd, _, err = unix.Accept(fd); err == nil {
			_, err = unix.Write(fd, []byte("pid 1\n"))
		}
	default:
		var from unix.Sockaddr
		var n int
		if n, from, err = unix.Recvfrom(fd, buf[:], 0); err == nil {
			if string(buf[:n]) == "ruin" {
				ruin(fd)
			}
			err = unix.Sendto(fd, []byte("pid 1\n"), 0, from)
		}
	}
	if err != nil {
		os.Exit(9)
	}
	os.Exit(0)
}

// first is a service of one kind of socket, whose first clients come when a test wants
// them to.
type first struct {
	*stand
	relaySocket func(host *os.File, make func() (*relayed, error)) (listen.RelaySocket, error) // in place of a relay that runs
	clients     int
	relays      netns.Owner
}

// firstKinds are the kinds of sockets, and how they are lent.
var firstKinds = []struct {
	address string
	seal    spec.Seal
}{
	{"tcp://127.0.0.1:PORT", spec.Unsealed}, {"udp://127.0.0.1:PORT", spec.Unsealed}, {"udp://127.0.0.1:PORT", spec.Relayed},
	{"udp://[::1]:PORT", spec.Relayed}, {"unix://DIR/socket", spec.Unsealed}, {"unixgram://DIR/socket", spec.Unsealed},
	{"unixgram://DIR/socket", spec.Relayed}, {"fifo://DIR/fifo", spec.Unsealed},
}

// eachFirst runs a test for every kind of socket. Nobody builds a sandbox yet.
func eachFirst(t *testing.T, test func(t *testing.T, f *first)) {
	for _, kind := range firstKinds {
		t.Run(fmt.Sprintf("%s %v", kind.address, kind.seal), func(t *testing.T) {
			dir, err := os.MkdirTemp("", "first")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			address := strings.NewReplacer("DIR", dir, "PORT", fmt.Sprint(ktest.Port(t))).Replace(kind.address)
			f := &first{stand: &stand{t: t, log: make(chan string, 10000), address: address, seal: kind.seal, shut: true}}
			t.Cleanup(func() { _ = f.relays.Close() })
			f.means.Restrictions = map[spec.Seal]listen.Restriction{spec.Relayed: &relaying{f: f}}
			test(t, f)
		})
	}
}

// relaying is a [listen.Restriction].
type relaying struct {
	listen.Plain
	f *first
}

func (r *relaying) OpenRelaySocket(host *os.File, _ spec.Socket, u *udprelay.Undelivered) (listen.RelaySocket, error) {
	make := func() (*relayed, error) { return r.f.newRelayed(host, u) }
	if r.f.relaySocket != nil {
		return r.f.relaySocket(host, make)
	}
	return make()
}

// relayed is a relay, as the daemon has it.
type relayed struct {
	*udprelay.SocketRelay
	t    *testing.T
	once sync.Once
	done sync.WaitGroup
}

func (f *first) newRelayed(host *os.File, u *udprelay.Undelivered) (*relayed, error) {
	d, err := udprelay.OpenSocketRelay(&f.relays, host, udprelay.Options{Undelivered: u})
	return &relayed{SocketRelay: d, t: f.t}, err
}

func (r *relayed) Run() {
	r.once.Do(func() {
		r.done.Go(func() {
			if err := r.SocketRelay.Run(context.Background()); err != nil && !errors.Is(err, udprelay.ErrClosed) {
				r.t.Error(err)
			}
		})
	})
}

func (r *relayed) Close() error {
	err := r.SocketRelay.Close()
	r.done.Wait()
	return err
}

// ask is a client; the function that it returns waits for his answer.
func (f *first) ask() (answered func()) {
	f.t.Helper()
	network, at, _ := strings.Cut(f.address, "://")
	if network == "fifo" {
		if err := os.WriteFile(at, []byte("hello"), 0); err != nil {
			f.t.Fatal(err)
		}
		return func() { f.t.Helper(); f.await("state=running") }
	}
	var from net.Addr
	if f.clients++; network == "unixgram" {
		from = &net.UnixAddr{Net: network, Name: fmt.Sprintf("@%s.%d", filepath.Dir(at), f.clients)}
	}
	c, err := (&net.Dialer{LocalAddr: from}).Dial(network, at)
	if err == nil {
		_, err = c.Write([]byte("hello"))
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return func() {
		f.t.Helper()
		defer c.Close()
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		var buf [64]byte
		if n, err := c.Read(buf[:]); err != nil || string(buf[:n]) != "pid 1\n" {
			f.t.Errorf("the first client is lost: %q, %v", buf[:n], err)
		}
	}
}

// open tells the service to build its sandbox, which will not come to stand until the
// function that is returned is called.
func (f *first) open() (stands func()) {
	f.t.Helper()
	f.await("state=listening") // it has asked for its slot
	f.slots.mu.Lock()
	f.slots.open = true
	f.slots.giveSlots()
	stands = sync.OnceFunc(f.slots.mu.Unlock)
	f.t.Cleanup(stands) // before the service is stopped
	return stands
}

// until waits for what another goroutine is about to do.
func (f *first) until(what string, is func() bool) {
	f.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatalf("still not: %s", what)
		}
	}
}

// aboutToStand reports whether the service is about to let its sandbox stand: it is warm,
// and its fast path is not armed.
func aboutToStand() bool {
	stacks := make([]byte, 1<<20)
	return strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "service.(*Slot).Stand(")
}

// The first client comes while nobody has built anything.
func TestFirstWhileListening(t *testing.T) {
	eachFirst(t, func(t *testing.T, f *first) {
		f.up("any once", warmed)
		f.await("state=listening")
		f.ask()()
	})
}

// He comes to the host's socket right before it has a relay.
func TestFirstBeforeRelay(t *testing.T) {
	eachFirst(t, func(t *testing.T, f *first) {
		answered := make(chan func(), 1)
		f.relaySocket = func(_ *os.File, make func() (*relayed, error)) (listen.RelaySocket, error) {
			answered <- f.ask()
			return make()
		}
		f.up("any once", warmed)
		f.open()()
		if f.seal == spec.Relayed {
			(<-answered)()
		}
	})
}

// The relay has carried him into the inner socket before anybody watches that.
func TestFirstInRelay(t *testing.T) {
	eachFirst(t, func(t *testing.T, f *first) {
		answered := make(chan func(), 1)
		f.relaySocket = func(_ *os.File, make func() (*relayed, error)) (listen.RelaySocket, error) {
			r, err := make()
			r.Run()
			answered <- f.ask()
			f.until("the datagram is inside", func() bool { return readable(r.File()) })
			return r, err
		}
		f.up("any once", warmed)
		f.open()()
		if f.seal == spec.Relayed {
			(<-answered)()
		}
	})
}

func readable(f *os.File) bool {
	poll := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n == 1
}

// He comes while the sandbox is being built.
func TestFirstWhileWarming(t *testing.T) {
	eachFirst(t, func(t *testing.T, f *first) {
		f.up("any once", warmed)
		stands := f.open()
		f.await("state=warming")
		answered := f.ask()
		stands()
		answered()
	})
}

// The watcher has heard of him when the sandbox stands, and before its fast path is armed.
func TestFirstBeforeArmed(t *testing.T) {
	eachFirst(t, func(t *testing.T, f *first) {
		f.up("any once", warmed)
		stands := f.open()
		f.until("the sandbox stands", aboutToStand)
		answered := f.ask()
		f.until("the watcher has heard", func() bool { return len(f.service.clients) == 1 })
		stands()
		answered()
	})
}

// The watcher has not been told of him, in whatever way that comes about: the event was
// taken and got lost, or the relay's was. In the next state that waits he is there.
func TestFirstUndelivered(t *testing.T) {
	eachFirst(t, func(t *testing.T, f *first) {
		if f.seal == spec.Relayed {
			f.relaySocket = func(host *os.File, make func() (*relayed, error)) (listen.RelaySocket, error) {
				r, err := make()
				return &sleepy{relayed: r, host: host}, err
			}
		}
		f.up("any once", warmed)
		stands := f.open()
		f.until("the sandbox stands", aboutToStand)
		answered := f.ask()
		if f.seal != spec.Relayed {
			f.until("the watcher has heard", func() bool { return len(f.service.clients) == 1 })
			<-f.service.clients
		}
		stands()
		answered()
	})
}

// sleepy is a relay that hears of nothing until it is asked to look at the host's queue
// while somebody waits there.
type sleepy struct {
	*relayed
	host *os.File
}

func (s *sleepy) Run() {}

func (s *sleepy) AskQueue() {
	if readable(s.host) {
		s.relayed.Run()
	}
}

// Who was accepted for a proxied service, before a reload, cannot be had by a program that
// inherits the socket: he is turned away, and wakes nobody.
func TestAcceptedBeforeReload(t *testing.T) {
	var client net.Conn
	s := &stand{t: t, log: make(chan string, 10000)}
	s.before = func(socket *listen.Socket) {
		client = s.ask()
		file, err := socket.Lend()
		if err == nil {
			err = fd.Control(file, func(listener int) error {
				accepted, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
				socket.Pending().Put(accepted, []byte("hello"))
				return err
			})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s.up("once", nil)
	s.await("clients turned away", "clients=1")
	if text, err := io.ReadAll(client); len(text) > 0 {
		t.Errorf("answer %q, %v", text, err)
	}
	if s.service.sockets[0].Pending().Any() {
		t.Error("somebody is aside still")
	}
	s.answered(s.ask())
}
