package sockfilter

import (
	"encoding/binary"
	"net/netip"
	"os"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
	"activator/internal/spec"
)

// The wire of a test is a tap device in a network namespace of its own: what
// sockets send to anybody but the host itself can be read from it, and what is
// written to it comes in from a stranger. The host is .1 (and ::1) of both nets.

var (
	host4   = netip.MustParseAddr("10.9.0.1")
	host6   = netip.MustParseAddr("fd09::1")
	client4 = netip.MustParseAddrPort("10.9.0.2:5002")
	client6 = netip.MustParseAddrPort("[fd09::2]:5002")
	other4  = netip.MustParseAddrPort("10.9.0.3:5003")
	other6  = netip.MustParseAddrPort("[fd09::3]:5003")
	marker4 = netip.MustParseAddrPort("10.9.0.4:5004")
)

type wire struct {
	t   testing.TB
	tap int
}

// onWire runs f on a thread that is in a new network namespace, and ends with
// it. f is not to start subtests; FailNow and Skip work.
func onWire(t *testing.T, f func(w *wire)) {
	t.Helper()
	ktest.OnThread(func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			ktest.Skip(t, "unshare a network namespace: %v", err)
		}
		w := newWire(t)
		defer func() { _ = unix.Close(w.tap) }()
		f(w)
	})
}

func newWire(t testing.TB) *wire {
	tap, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		ktest.Skip(t, "open /dev/net/tun: %v", err)
	}
	w := &wire{t: t, tap: tap}
	control, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	w.must("socket", err)
	defer func() { _ = unix.Close(control) }()
	w.attachTap(tap, "tap0")
	// Without ARP there are no neighbours to ask for, and no waiting for an address.
	for name, flags := range map[string]uint16{"lo": unix.IFF_UP, "tap0": unix.IFF_UP | unix.IFF_NOARP | unix.IFF_BROADCAST | unix.IFF_MULTICAST} {
		r := w.request(name)
		r.SetUint16(flags)
		w.must("SIOCSIFFLAGS", unix.IoctlIfreq(control, unix.SIOCSIFFLAGS, r))
	}
	r := w.request("tap0")
	w.must("address", r.SetInet4Addr(host4.AsSlice()))
	w.must("SIOCSIFADDR", unix.IoctlIfreq(control, unix.SIOCSIFADDR, r))
	w.must("netmask", r.SetInet4Addr([]byte{255, 255, 0, 0}))
	w.must("SIOCSIFNETMASK", unix.IoctlIfreq(control, unix.SIOCSIFNETMASK, r))
	w.must("broadcast", r.SetInet4Addr([]byte{10, 9, 255, 255}))
	w.must("SIOCSIFBRDADDR", unix.IoctlIfreq(control, unix.SIOCSIFBRDADDR, r))
	w.address6(control, "tap0", host6)
	w.address6(control, "tap0", netip.MustParseAddr("fe80::2"))
	return w
}

func (w *wire) attachTap(tap int, name string) {
	device := w.request(name)
	device.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	w.must("TUNSETIFF", unix.IoctlIfreq(tap, unix.TUNSETIFF, device))
}

// addLink adds a second wire, tap1, which nobody reads. The caller closes it.
func (w *wire) addLink() (tap int) {
	tap, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	w.must("open", err)
	w.attachTap(tap, "tap1")
	control, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	w.must("socket", err)
	defer func() { _ = unix.Close(control) }()
	r := w.request("tap1")
	r.SetUint16(unix.IFF_UP | unix.IFF_NOARP | unix.IFF_BROADCAST | unix.IFF_MULTICAST)
	w.must("SIOCSIFFLAGS", unix.IoctlIfreq(control, unix.SIOCSIFFLAGS, r))
	w.address6(control, "tap1", netip.MustParseAddr("fe80::1"))
	return tap
}

// indexOf is the number of an interface.
func (w *wire) indexOf(name string) uint32 {
	control, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	w.must("socket", err)
	defer func() { _ = unix.Close(control) }()
	r := w.request(name)
	w.must("SIOCGIFINDEX", unix.IoctlIfreq(control, unix.SIOCGIFINDEX, r))
	return r.Uint32()
}

// await6 waits until an address of a link works, which the kernel has a worker for: until the host reaches itself by it.
func (w *wire) await6(link string, address netip.Addr) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	w.must("socket", err)
	defer func() { _ = unix.Close(fd) }()
	to := &unix.SockaddrInet6{Port: int(w.bound(fd, udp6())), Addr: address.As16(), ZoneId: w.indexOf(link)}
	for range 6000 { // a minute: only a hang takes as long
		_ = unix.Sendto(fd, []byte("x"), 0, to)
		if ready, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10); ready == 1 {
			return
		}
	}
	w.t.Fatalf("%v does not work", address)
}

func (w *wire) request(name string) *unix.Ifreq {
	r, err := unix.NewIfreq(name)
	w.must("ifreq", err)
	return r
}

// address6 gives an interface its IPv6 address: struct in6_ifreq of linux/ipv6.h.
func (w *wire) address6(control int, name string, address netip.Addr) {
	r := w.request(name)
	w.must("SIOCGIFINDEX", unix.IoctlIfreq(control, unix.SIOCGIFINDEX, r))
	six, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		ktest.Skip(w.t, "no IPv6: %v", err)
	}
	defer func() { _ = unix.Close(six) }()
	request := struct {
		address [16]byte
		prefix  uint32
		index   int32
	}{address.As16(), 64, int32(r.Uint32())}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(six), unix.SIOCSIFADDR, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		ktest.Skip(w.t, "IPv6 address: %v", errno)
	}
	w.await6(name, address)
}

func (w *wire) must(what string, err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
}

// bound returns a socket bound to a port of the host; for v6 to both families.
func (w *wire) bound(fd int, kind spec.Kind) (port uint16) {
	w.t.Helper()
	var any unix.Sockaddr = &unix.SockaddrInet4{}
	if kind.Family == unix.AF_INET6 {
		any = &unix.SockaddrInet6{}
	}
	w.must("bind", unix.Bind(fd, any))
	at, err := unix.Getsockname(fd)
	w.must("getsockname", err)
	w.must("timeout", unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	if four, ok := at.(*unix.SockaddrInet4); ok {
		return uint16(four.Port)
	}
	return uint16(at.(*unix.SockaddrInet6).Port)
}

// arrive lets a datagram come in from the wire.
func (w *wire) arrive(from netip.AddrPort, port uint16, payload []byte) {
	w.t.Helper()
	frame := make([]byte, 14, 128)
	frame[0] = 0xff // for everybody: the host's own address was random
	for i := range 5 {
		frame[1+i] = 0xff
	}
	if from.Addr().Is4() {
		binary.BigEndian.PutUint16(frame[12:], unix.ETH_P_IP)
		frame = append(frame, packet4(from, netip.AddrPortFrom(host4, port), payload)...)
	} else {
		binary.BigEndian.PutUint16(frame[12:], unix.ETH_P_IPV6)
		frame = append(frame, packet6(from, netip.AddrPortFrom(host6, port), payload)...)
	}
	_, err := unix.Write(w.tap, frame)
	w.must("write to the wire", err)
}

func packet4(from, to netip.AddrPort, payload []byte) []byte {
	p := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	p = append(append(p, from.Addr().AsSlice()...), to.Addr().AsSlice()...)
	p = append(p, datagram(from, to, payload)...)
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	binary.BigEndian.PutUint16(p[10:], checksum(p[:20]))
	return p
}

func packet6(from, to netip.AddrPort, payload []byte) []byte {
	p := []byte{0x60, 0, 0, 0, 0, 0, unix.IPPROTO_UDP, 64}
	p = append(append(p, from.Addr().AsSlice()...), to.Addr().AsSlice()...)
	udp := datagram(from, to, payload)
	binary.BigEndian.PutUint16(p[4:], uint16(len(udp)))
	pseudo := append(append([]byte{}, p[8:40]...), 0, 0, 0, byte(len(udp)), 0, 0, 0, unix.IPPROTO_UDP)
	binary.BigEndian.PutUint16(udp[6:], checksum(append(pseudo, udp...)))
	return append(p, udp...)
}

// datagram has no checksum, which only IPv6 forbids.
func datagram(from, to netip.AddrPort, payload []byte) []byte {
	udp := binary.BigEndian.AppendUint16(nil, from.Port())
	udp = binary.BigEndian.AppendUint16(udp, to.Port())
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(payload)))
	return append(append(udp, 0, 0), payload...)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		word := uint32(b[i]) << 8
		if i+1 < len(b) {
			word |= uint32(b[i+1])
		}
		sum += word
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// heard lets the socket hear a client, as its program would.
func (w *wire) heard(fd int, port uint16, from netip.AddrPort) {
	w.t.Helper()
	w.arrive(from, port, []byte("hello"))
	var buffer [64]byte
	n, at, err := unix.Recvfrom(fd, buffer[:], 0)
	w.must("receive", err)
	if got := addrPort(at); string(buffer[:n]) != "hello" || got != from {
		w.t.Fatalf("heard %q from %v, want it from %v", buffer[:n], got, from)
	}
}

func addrPort(at unix.Sockaddr) netip.AddrPort {
	switch at := at.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(at.Addr), uint16(at.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(at.Addr).Unmap(), uint16(at.Port))
	}
	return netip.AddrPort{}
}

// sent returns how many packets went out to each address since the last call. A
// marker of an unsealed socket, sent now, says where to stop reading: packets stay
// in order, so nothing has to be waited for.
func (w *wire) sent() map[netip.Addr]int {
	w.t.Helper()
	marker, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	w.must("socket", err)
	defer func() { _ = unix.Close(marker) }()
	w.must("send the marker", unix.Sendto(marker, []byte("marker"), 0, sockaddr(marker4, false)))
	packets := map[netip.Addr]int{}
	frame := make([]byte, 1<<17)
	for {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(w.tap), Events: unix.POLLIN}}, int(5*time.Minute/time.Millisecond))
		if err == unix.EINTR {
			continue
		}
		w.must("poll the wire", err)
		if ready == 0 {
			w.t.Fatal("the marker never came")
		}
		n, err := unix.Read(w.tap, frame)
		w.must("read the wire", err)
		to := destination(frame[14:n])
		if to == marker4.Addr() {
			return packets
		}
		packets[to]++
	}
}

func destination(packet []byte) netip.Addr {
	var to netip.Addr
	switch packet[0] >> 4 {
	case 4:
		to, _ = netip.AddrFromSlice(packet[16:20])
	case 6:
		to, _ = netip.AddrFromSlice(packet[24:40])
	}
	return to
}

// sockaddr is how a socket asks for an address: mapped, a v6 one for IPv4.
func sockaddr(to netip.AddrPort, mapped bool) unix.Sockaddr {
	if to.Addr().Is4() && !mapped {
		return &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
}

// sealed returns a sealed socket of our own, with its table.
func sealed(tb testing.TB, p *Programs, k spec.Kind) *os.File {
	tb.Helper()
	sockets, err := p.MakeSockets([]spec.Kind{k})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = sockets[0].Close() })
	if err := p.Admit(sockets[0]); err != nil {
		tb.Fatal(err)
	}
	return sockets[0]
}
