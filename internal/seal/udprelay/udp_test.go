package udprelay

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockaddr"
)

func client(t testing.TB, network, from string) net.PacketConn {
	t.Helper()
	c, err := net.ListenPacket(network, from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestUDPAddresses(t *testing.T) {
	m := newOwner(t)
	for _, row := range []struct{ name, network, host, clientNetwork, client, ask string }{
		{"v4", "udp4", "127.0.0.1:0", "udp4", "127.0.0.1:0", ""},
		{"v4 another address", "udp4", "127.0.0.1:0", "udp4", "127.9.8.7:0", ""},
		{"v6", "udp6", "[::1]:0", "udp6", "[::1]:0", ""},
		{"wildcard v4", "udp4", "0.0.0.0:0", "udp4", "127.0.0.1:0", "127.0.0.1"},
		{"wildcard v4, another address asked", "udp4", "0.0.0.0:0", "udp4", "127.0.0.1:0", "127.0.0.2"},
		{"wildcard v6", "udp6", "[::]:0", "udp6", "[::1]:0", "::1"},
		{"dual stack, v6 client", "udp", "[::]:0", "udp6", "[::1]:0", "::1"},
		{"dual stack, v4 client", "udp", "[::]:0", "udp4", "127.0.0.1:0", "127.0.0.3"},
	} {
		t.Run(row.name, func(t *testing.T) {
			f, host := hostSocket(t, row.network, row.host)
			d := openRelay(t, m, f, Options{})
			run(t, d)
			inner := service(t, d)
			if inner.LocalAddr().String() != host.LocalAddr().String() {
				t.Errorf("the inner socket is at %v, the host's at %v", inner.LocalAddr(), host.LocalAddr())
			}
			to := *host.LocalAddr().(*net.UDPAddr)
			if row.ask != "" {
				to.IP = net.ParseIP(row.ask)
			}
			c := client(t, row.clientNetwork, row.client)
			if _, err := c.WriteTo([]byte("question"), &to); err != nil {
				t.Fatal(err)
			}
			text, from := receive(t, inner)
			if text != "question" || from.String() != c.LocalAddr().String() {
				t.Errorf("the service sees %q from %v, not from %v", text, from, c.LocalAddr())
			}
			if _, err := inner.WriteTo([]byte("answer"), from); err != nil {
				t.Fatal(err)
			}
			text, from = receive(t, c)
			if text != "answer" || from.String() != to.String() {
				t.Errorf("the client sees %q from %v, not from %v", text, from, &to)
			}
		})
	}
}

// TestUDPRepliesOnly: what the service sends to others than its clients is lost.
func TestUDPRepliesOnly(t *testing.T) {
	f, host := hostSocket(t, "udp4", "127.0.0.1:0")
	d := openRelay(t, newOwner(t), f, Options{})
	run(t, d)
	inner := service(t, d)
	exchange(t, client(t, "udp4", "127.0.0.1:0"), host.LocalAddr(), inner)
	stranger := client(t, "udp4", "127.0.0.1:0")
	for _, to := range []net.Addr{stranger.LocalAddr(), &net.UDPAddr{IP: net.IPv4(203, 0, 113, 9), Port: 5555}} {
		ask(t, inner, to, "out") // sent, and lost in the relay network
	}
	silent(t, stranger, "a stranger on the host")
	if err := unix.Connect(d.socket.fd, &unix.SockaddrInet4{Port: stranger.LocalAddr().(*net.UDPAddr).Port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	_, _ = unix.Write(d.socket.fd, []byte("out")) // ECONNREFUSED at the second
	silent(t, stranger, "a stranger on the host")
}

func TestUDPSizes(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", "0.0.0.0:0"} {
		t.Run(address, func(t *testing.T) {
			f, host := hostSocket(t, "udp", address)
			d := openRelay(t, newOwner(t), f, Options{})
			run(t, d)
			inner := service(t, d)
			to := *host.LocalAddr().(*net.UDPAddr)
			if to.IP.IsUnspecified() {
				to.IP = net.IPv4(127, 0, 0, 1)
			}
			c := client(t, "udp", (&net.UDPAddr{IP: to.IP}).String())
			for _, size := range []int{0, 1, 1472, 1473, 9000, 40000, 65507} {
				sent := pattern(size)
				ask(t, c, &to, sent)
				text, from := receive(t, inner)
				if text != sent {
					t.Fatalf("%d bytes became %d, or others", size, len(text))
				}
				ask(t, inner, from, text)
				if text, _ := receive(t, c); text != sent {
					t.Fatalf("an answer of %d bytes became %d, or others", size, len(text))
				}
			}
		})
	}
}

func pattern(size int) string {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i * 7 / 3)
	}
	return string(b)
}

// TestUDPSegments: a client that has the kernel cut its datagrams, and all sizes
// after one another, which the relay hands to the kernel together.
func TestUDPSegments(t *testing.T) {
	f, host := hostSocket(t, "udp4", "127.0.0.1:0")
	d := openRelay(t, newOwner(t), f, Options{})
	stop := run(t, d)
	inner := service(t, d)
	c := client(t, "udp4", "127.0.0.1:0")
	if err := unix.SetsockoptInt(descriptor(t, c), unix.SOL_UDP, unix.UDP_SEGMENT, 100); err != nil {
		t.Fatal(err)
	}
	ask(t, c, host.LocalAddr(), pattern(1050))
	for i := range 11 {
		text, from := receive(t, inner)
		if want := pattern(1050)[i*100 : min(1050, i*100+100)]; text != want {
			t.Fatalf("segment %d has %d bytes, not %d, or others", i, len(text), len(want))
		}
		ask(t, inner, from, text)
	}
	for i := range 11 {
		if text, _ := receive(t, c); text != pattern(1050)[i*100:min(1050, i*100+100)] {
			t.Fatalf("answer %d has %d bytes, or others", i, len(text))
		}
	}
	if err := unix.SetsockoptInt(descriptor(t, c), unix.SOL_UDP, unix.UDP_SEGMENT, 0); err != nil {
		t.Fatal(err)
	}
	// Collected while there is no relay, they go in one batch.
	stop()
	sizes := []int{5, 5, 5, 3, 5, 0, 0, 5, 7, 7, 1, 1, 1400, 1400, 1400, 2000, 2000, 3, 9000, 9000}
	for _, size := range sizes {
		ask(t, c, host.LocalAddr(), pattern(size))
	}
	stop = run(t, d)
	for i, size := range sizes {
		text, _ := receive(t, inner)
		if text != pattern(size) {
			t.Fatalf("datagram %d has %d bytes, not %d, or others", i, len(text), size)
		}
	}
	stop()
	for _, size := range sizes {
		ask(t, inner, c.LocalAddr(), pattern(size))
	}
	run(t, d)
	for i, size := range sizes {
		if text, from := receive(t, c); text != pattern(size) || from.String() != host.LocalAddr().String() {
			t.Fatalf("answer %d has %d bytes, not %d, or others", i, len(text), size)
		}
	}
}

// TestUDPQueue: the service is not there, and clients go on until neither queue
// takes more; the next one gets everything, in order.
func TestUDPQueue(t *testing.T) {
	f, host := hostSocket(t, "udp4", "127.0.0.1:0")
	d := openRelay(t, newOwner(t), f, Options{})
	stop := run(t, d)
	first := service(t, d)
	c := client(t, "udp4", "127.0.0.1:0")
	exchange(t, c, host.LocalAddr(), first)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	sent := 0
	eventually(t, "both queues are well filled", func() bool {
		if used, buffer := memory(t, d.host); used > buffer/2 {
			used, buffer = memory(t, d.socket.fd) // or the relay was not here yet
			return used > buffer/2-estimateCharge(4)
		}
		for range 50 {
			ask(t, c, host.LocalAddr(), fmt.Sprint(sent))
			sent++
		}
		return false
	})
	const truesize = 768 // of a small datagram, struct sk_buff and its data
	if _, buffer := memory(t, d.host); sent <= buffer/truesize {
		direct := buffer / truesize
		t.Errorf("only %d datagrams have room, without a relay %d", sent, direct)
	}
	stop() // the daemon may end Run meanwhile, too
	run(t, d)
	second := service(t, d)
	for i := range sent {
		if text, _ := receive(t, second); text != fmt.Sprint(i) {
			t.Fatalf("datagram %d of %d is %q", i, sent, text)
		}
	}
	exchange(t, c, host.LocalAddr(), second)
}

// memory is SO_MEMINFO: used and allowed bytes of a receive queue.
func memory(t testing.TB, fd int) (used, buffer int) {
	t.Helper()
	var info [unix.SK_MEMINFO_VARS]uint32
	size := uint32(unsafe.Sizeof(info))
	if _, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0); e != 0 {
		t.Fatal(e)
	}
	return int(info[unix.SK_MEMINFO_RMEM_ALLOC]), int(info[unix.SK_MEMINFO_RCVBUF])
}

// TestUDPFlood: a service slower than its clients loses nothing that the host's
// queue has room for: the sender keeps an eye on that one alone.
func TestUDPFlood(t *testing.T) {
	for _, size := range []int{0, 64, 1400, 60000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			f, host := hostSocket(t, "udp4", "127.0.0.1:0")
			d := openRelay(t, newOwner(t), f, Options{})
			run(t, d)
			inner := service(t, d)
			c := client(t, "udp4", "127.0.0.1:0")
			const many = 3000
			go func() {
				text := make([]byte, max(size, 4))
				for i := range uint32(many) {
					for used := 1 << 30; used > 100_000; {
						if used, _ = memory(t, d.host); used > 100_000 {
							time.Sleep(50 * time.Microsecond)
						}
					}
					binary.NativeEndian.PutUint32(text, i)
					if _, err := c.WriteTo(text, host.LocalAddr()); err != nil {
						t.Error(err)
						return
					}
				}
			}()
			for i := range uint32(many) {
				text, _ := receive(t, inner)
				if got := binary.NativeEndian.Uint32([]byte(text)); got != i {
					t.Fatalf("datagram %d instead of %d", got, i)
				}
			}
		})
	}
}

// TestUDPFarClients gives flows to clients that this host does not have, also
// with the port of the service itself, as NTP does.
func TestUDPFarClients(t *testing.T) {
	for _, row := range []struct {
		host, client string
		own          bool // has the service's port
		asked        string
	}{
		{"127.0.0.1:0", "203.0.113.9", false, ""},
		{"127.0.0.1:0", "203.0.113.9", true, ""},
		{"0.0.0.0:0", "203.0.113.9", true, "198.51.100.1"},
		{"[::]:0", "203.0.113.9", true, "198.51.100.1"},
		{"[::]:0", "2001:db8::9", true, "2001:db8::1"},
		{"[::]:0", "2001:db8::9", false, "fe80::1"},
		{"[::]:0", "fe80::9%lo", false, "fe80::1"},
		{"[::]:0", "fe80::9%lo", true, "2001:db8::1"},
		{"[::]:0", "2001:db8::9", false, "ff02::1"},
		{"[::]:0", "203.0.113.9", false, "255.255.255.255"},
		{"0.0.0.0:0", "203.0.113.9", false, "255.255.255.255"},
		{"0.0.0.0:0", "203.0.113.9", false, "192.0.2.255"},
		{"[::1]:0", "2001:db8::9", false, ""},
	} {
		t.Run(fmt.Sprint(row.host, " ", row.client, " ", row.own, " ", row.asked), func(t *testing.T) {
			f, host := hostSocket(t, "udp", row.host)
			d := openRelay(t, newOwner(t), f, Options{})
			inner := service(t, d)
			port := uint16(1023) // a low one: the client's, not ours
			if row.own {
				port = uint16(host.LocalAddr().(*net.UDPAddr).Port)
			}
			ip := netip.MustParseAddr(row.client)
			name := sockaddr.Inet(ip.WithZone(""), port, sockaddr.Loopback)
			if d.family == unix.AF_INET6 && ip.Is4() {
				name = sockaddr.Inet(netip.AddrFrom16(ip.As16()), port, 0)
			}
			var asked []byte
			if to, err := netip.ParseAddr(row.asked); err == nil && d.family == unix.AF_INET {
				asked = appendFrom4(nil, to)
			} else if err == nil {
				asked = appendFrom6(nil, to, 7)
			}
			flow := udpOf(d).newFlow(&name, asked)
			if flow == nil {
				t.Fatal("no flow")
			}
			if err := openUDP(d, flow); err != nil {
				t.Fatal(err)
			}
			if _, _, e := unix.Syscall6(unix.SYS_SENDTO, uintptr(flow.fd), uintptr(unsafe.Pointer(&[]byte("hello")[0])), 5, 0,
				uintptr(unsafe.Pointer(&flow.inner.B)), uintptr(flow.inner.N)); e != 0 {
				t.Fatal(e)
			}
			text, from := receive(t, inner)
			if want := netip.AddrPortFrom(ip, port).String(); text != "hello" || from.String() != want {
				t.Errorf("%q from %v, not from %v", text, from, want)
			}
			ask(t, inner, from, "answer")
			var b [16]byte
			if n, err := unix.Read(flow.fd, b[:]); err != nil || string(b[:n]) != "answer" {
				t.Errorf("the flow has %q, %v", b[:max(n, 0)], err)
			}
		})
	}
}

// TestUDPNoFlow: a client that cannot be answered gets no flow, and our own address no loop.
func TestUDPNoFlow(t *testing.T) {
	f, host := hostSocket(t, "udp4", "127.0.0.1:0")
	d := openRelay(t, newOwner(t), f, Options{})
	port := uint16(host.LocalAddr().(*net.UDPAddr).Port)
	for _, row := range []struct {
		ip   string
		port uint16
	}{{"0.0.0.0", 68}, {"203.0.113.9", 0}, {"224.0.0.1", 5}, {"127.0.0.1", port}, {"::ffff:0.0.0.0", 68}, {"::", 5}} {
		name := sockaddr.Inet(netip.MustParseAddr(row.ip), row.port, 0)
		if udpOf(d).newFlow(&name, nil) != nil {
			t.Errorf("%s port %d has a flow", row.ip, row.port)
		}
	}
}

// TestUDPSameAddressTwice: two links may have the same link-local client.
func TestUDPSameAddressTwice(t *testing.T) {
	f, _ := hostSocket(t, "udp6", "[::1]:0")
	d := openRelay(t, newOwner(t), f, Options{})
	inner := service(t, d)
	seen := map[string]bool{}
	for scope := range uint32(2) {
		name := sockaddr.Inet(netip.MustParseAddr("fe80::9"), 1234, scope+7)
		flow := udpOf(d).newFlow(&name, nil)
		if err := openUDP(d, flow); err != nil {
			t.Fatal(err)
		}
		if _, _, e := unix.Syscall6(unix.SYS_SENDTO, uintptr(flow.fd), uintptr(unsafe.Pointer(&[]byte("hello")[0])), 5, 0,
			uintptr(unsafe.Pointer(&flow.inner.B)), uintptr(flow.inner.N)); e != 0 {
			t.Fatal(e)
		}
		_, from := receive(t, inner)
		seen[from.String()] = true
	}
	if len(seen) != 2 || !seen["[fe80::9%lo]:1234"] {
		t.Errorf("the service sees %v", seen)
	}
}

// TestUDPServiceChooses: a service that asks for the address its client asked
// gets it, and may answer from another one.
func TestUDPServiceChooses(t *testing.T) {
	f, host := hostSocket(t, "udp4", "0.0.0.0:0")
	d := openRelay(t, newOwner(t), f, Options{})
	run(t, d)
	inner := service(t, d)
	fd := descriptor(t, inner)
	if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_PKTINFO, 1); err != nil {
		t.Fatal(err)
	}
	c := client(t, "udp4", "127.0.0.1:0")
	port := host.LocalAddr().(*net.UDPAddr).Port
	ask(t, c, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 7), Port: port}, "question")
	b, oob := make([]byte, 64), make([]byte, 64)
	_ = inner.SetReadDeadline(time.Now().Add(waitTimeout))
	_, n, _, from, err := inner.(*net.UDPConn).ReadMsgUDP(b, oob)
	if err != nil {
		t.Fatal(err)
	}
	if p := findControl(oob[:n], unix.SOL_IP, unix.IP_PKTINFO); len(p) < 12 || [4]byte(p[8:]) != [4]byte{127, 0, 0, 7} {
		t.Errorf("IP_PKTINFO says %v", p)
	}
	other := netip.MustParseAddr("127.0.0.9")
	if _, _, err := inner.(*net.UDPConn).WriteMsgUDP([]byte("answer"), appendFrom4(nil, other), from); err != nil {
		t.Fatal(err)
	}
	if _, from := receive(t, c); from.(*net.UDPAddr).IP.String() != other.String() {
		t.Errorf("the answer is from %v, not %v", from, other)
	}
}

// TestUDPQueuedBefore: what came before there was a relay has no IP_PKTINFO.
func TestUDPQueuedBefore(t *testing.T) {
	f, host := hostSocket(t, "udp4", "0.0.0.0:0")
	c := client(t, "udp4", "127.0.0.1:0")
	to := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 6), Port: host.LocalAddr().(*net.UDPAddr).Port}
	ask(t, c, to, "early")
	d := openRelay(t, newOwner(t), f, Options{})
	run(t, d)
	inner := service(t, d)
	text, from := receive(t, inner)
	if text != "early" || from.String() != c.LocalAddr().String() {
		t.Errorf("%q from %v", text, from)
	}
	ask(t, inner, from, "answer")
	if text, from := receive(t, c); text != "answer" || from.String() != to.String() {
		t.Errorf("%q from %v, not from %v", text, from, to)
	}
}

// TestUDPNoAllocations: nothing is allocated for a datagram.
func TestUDPNoAllocations(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "0.0.0.0:0"} {
		f, host := hostSocket(t, "udp4", address)
		d := openRelay(t, newOwner(t), f, Options{})
		c, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: host.LocalAddr().(*net.UDPAddr).Port})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fd := descriptor(t, c)
		var b [64]byte
		var name sockaddr.Raw
		exchange := func() {
			if n, err := unix.Write(fd, b[:10]); n != 10 {
				t.Fatal(err)
			}
			d.hostReady = true
			if _, err := d.carryRound(); err != nil {
				t.Fatal(err)
			}
			if n, err := echoOne(d.socket.fd, b[:], &name); n != 10 {
				t.Fatal(n, err)
			}
			d.flows.wakeFlow(d.flows.oldestFlow())
			if _, err := d.carryRound(); err != nil {
				t.Fatal(err)
			}
			if n, err := unix.Read(fd, b[:]); n != 10 {
				t.Fatal(n, err)
			}
		}
		exchange()
		if n := testing.AllocsPerRun(100, exchange); n != 0 {
			t.Errorf("%s: %v allocations for each exchange", address, n)
		}
	}
}
