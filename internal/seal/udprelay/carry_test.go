package udprelay

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

// network is a [Program] on our own loopback: no client has its own address there.
type network struct {
	t       *testing.T
	mu      sync.Mutex
	program net.PacketConn // nil: the address is not bound
	gone    int
	looks   int // at the program's queue
}

// enter has a program bind its address.
func (h *network) enter() net.PacketConn {
	h.t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = c.Close() })
	h.mu.Lock()
	defer h.mu.Unlock()
	h.program = c
	return c
}

// leave ends the program.
func (h *network) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	_ = h.program.Close()
	h.program = nil
	h.gone++
}

func (h *network) MakeSockets(domain, n int) (fds []int, err error) {
	for range n {
		fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return fds, err
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

func (h *network) ReadQueue() (spec.Queue, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.looks++
	if h.program == nil {
		return spec.Queue{Gone: h.gone}, nil
	}
	var info [unix.SK_MEMINFO_VARS]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(descriptor(h.t, h.program)), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	used := int(info[unix.SK_MEMINFO_RMEM_ALLOC])
	return spec.Queue{There: true, Unread: used, Room: int(info[unix.SK_MEMINFO_RCVBUF])/2 - used, Gone: h.gone}, errnoOrNil(e)
}

func (h *network) FindAddress(client, asked netip.Addr) (to netip.AddrPort, own bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.program != nil {
		to = h.program.LocalAddr().(*net.UDPAddr).AddrPort()
	}
	return to, false
}

// isQuiet reports whether no relay looks at the program's queue for a moment.
func (h *network) isQuiet() bool {
	count := func() int {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.looks
	}
	before := count()
	time.Sleep(20 * time.Millisecond)
	return count() == before
}

func carryFor(t *testing.T, f *os.File, h *network, u *Undelivered) *ProgramRelay {
	t.Helper()
	d, err := OpenProgramRelay(f, h, Options{Undelivered: u})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// asks makes clients that each ask one question, and returns them.
func asks(t *testing.T, to net.Addr, n int) (clients []net.PacketConn) {
	t.Helper()
	for i := range n {
		c, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		ask(t, c, to, fmt.Sprint("question ", i))
		clients = append(clients, c)
	}
	return clients
}

// reads reads n questions, in any order, and answers the first of them.
func reads(t *testing.T, c net.PacketConn, n, answers int) (texts []string) {
	t.Helper()
	for i := range n {
		text, from := receive(t, c)
		if texts = append(texts, text); i < answers {
			ask(t, c, from, "answer to "+text)
		}
	}
	slices.Sort(texts)
	return texts
}

// What a program has not read when it ends is the next one's, once, with what comes
// later behind it; what was answered is not sent again.
func TestCarryKeepsWhatIsNotRead(t *testing.T) {
	h := &network{t: t}
	f, host := hostSocket(t, "udp4", "127.0.0.1:0")
	var kept Undelivered
	first := carryFor(t, f, h, &kept)
	stop := run(t, first)
	clients := asks(t, host.LocalAddr(), 5)
	time.Sleep(20 * time.Millisecond)
	if q, err := h.ReadQueue(); q.There || err != nil || kept.Any() {
		t.Fatal("a program is there")
	}
	program := h.enter()
	reads(t, program, 3, 3) // two stay in its queue
	for _, c := range clients[:3] {
		if text, _ := receive(t, c); text[:9] != "answer to" {
			t.Fatalf("a client receives %q", text)
		}
	}
	h.leave()
	stop()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if n := len(kept.all); n != 2 {
		t.Fatalf("%d are kept, want 2", n)
	}
	second := carryFor(t, f, h, &kept)
	program = h.enter()
	run(t, second)
	asks(t, host.LocalAddr(), 1)
	if got, want := reads(t, program, 3, 3), []string{"question 0", "question 3", "question 4"}; !slices.Equal(got, want) {
		t.Errorf("the next one reads %q, want %q", got, want)
	}
	silent(t, program, "the program")
	for _, c := range clients[3:] {
		receive(t, c)
	}
}

// One that ends a program each time it is sent is not sent for ever.
func TestCarryGivesUp(t *testing.T) {
	h := &network{t: t}
	f, host := hostSocket(t, "udp4", "127.0.0.1:0")
	asks(t, host.LocalAddr(), 1)
	var kept Undelivered
	for times := 1; times <= mostTries; times++ {
		h.enter()
		d := carryFor(t, f, h, &kept)
		stop := run(t, d)
		eventually(t, "it is sent", func() bool { q, err := h.ReadQueue(); return q.Unread > 0 || err != nil })
		h.leave()
		stop()
		_ = d.Close()
		if (len(kept.all) == 1) != (times < mostTries) {
			t.Fatalf("after %d programs %d are kept", times, len(kept.all))
		}
	}
}

// After Leave nothing is taken off the host's queue, and answers still come.
func TestCarryLeaves(t *testing.T) {
	h := &network{t: t}
	f, host := hostSocket(t, "udp4", "127.0.0.1:0")
	d := carryFor(t, f, h, nil)
	program := h.enter()
	run(t, d)
	client := asks(t, host.LocalAddr(), 1)[0]
	eventually(t, "it is sent", func() bool { q, err := h.ReadQueue(); return q.Unread > 0 || err != nil })
	d.Leave()
	select {
	case <-d.Left():
		t.Error("it has left before the program has read")
	case <-time.After(20 * time.Millisecond):
	}
	_, from := receive(t, program)
	select {
	case <-d.Left():
	case <-time.After(waitTimeout):
		t.Fatal("it does not leave")
	}
	asks(t, host.LocalAddr(), 1)
	silent(t, program, "the program")
	eventually(t, "the relay rests while a client waits", h.isQuiet)
	ask(t, program, from, "late")
	if text, _ := receive(t, client); text != "late" {
		t.Errorf("the client receives %q", text)
	}
	if text, _ := receive(t, host); text != "question 0" {
		t.Errorf("in the host's queue is %q", text)
	}
}

// Many more than a batch, and than the program's queue has room for, while it reads
// now and then: each comes once, in the order of the client.
func TestCarryManyOfOneClient(t *testing.T) {
	const n = 2000
	h := &network{t: t}
	f, host := hostSocket(t, "udp4", "127.0.0.1:0")
	if err := host.(*net.UDPConn).SetReadBuffer(8 << 20); err != nil {
		t.Fatal(err)
	}
	d := carryFor(t, f, h, nil)
	program := h.enter()
	_ = program.(*net.UDPConn).SetReadBuffer(16 << 10)
	run(t, d)
	client, err := net.Dial("udp4", host.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for i := range n {
		fmt.Fprint(client, i)
		if i%50 == 49 { // not more than the host's queue has room for
			for j := i - 49; j <= i; j++ {
				if text, _ := receive(t, program); text != fmt.Sprint(j) {
					t.Fatalf("it reads %q, want %d", text, j)
				}
			}
		}
	}
	silent(t, program, "the program")
}
