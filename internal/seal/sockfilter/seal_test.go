package sockfilter

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
	"activator/internal/spec"
)

// way is a way to send a datagram; the socket is bound and not connected.
type way struct {
	name   string
	send   func(fd int, to unix.Sockaddr) error
	large  bool // more packets than one
	silent bool // what egress refuses has no errno: the system call before took it
}

func ways() []way {
	small, large := []byte("payload"), make([]byte, 60000)
	return []way{
		{"sendto", func(fd int, to unix.Sockaddr) error { return unix.Sendto(fd, small, 0, to) }, false, false},
		{"sendmsg", func(fd int, to unix.Sockaddr) error { return unix.Sendmsg(fd, small, nil, to, 0) }, false, false},
		{"sendmmsg", sendmmsg, false, false},
		{"connect and send", connectAndSend, false, false},
		{"connected before", connectedBefore, false, false},
		{"60 kB, in fragments", func(fd int, to unix.Sockaddr) error { return unix.Sendto(fd, large, 0, to) }, true, false},
		{"60 kB, connected", func(fd int, to unix.Sockaddr) error {
			if err := unix.Connect(fd, to); err != nil {
				return err
			}
			_, err := unix.Write(fd, large)
			return err
		}, true, false},
		{"UDP_SEGMENT", func(fd int, to unix.Sockaddr) error {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1000); err != nil {
				return err
			}
			return errors.Join(unix.Sendto(fd, large[:10000], 0, to), unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 0))
		}, true, false},
		{"MSG_MORE", func(fd int, to unix.Sockaddr) error {
			return errors.Join(unix.Sendto(fd, small, unix.MSG_MORE, to), unix.Sendto(fd, small, 0, to))
		}, false, false},
		{"UDP_CORK", func(fd int, to unix.Sockaddr) error {
			return errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_CORK, 1), unix.Sendto(fd, small, 0, to),
				unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_CORK, 0))
		}, false, true},
		{"MSG_ZEROCOPY", func(fd int, to unix.Sockaddr) error {
			return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1), unix.Sendto(fd, large[:1200], unix.MSG_ZEROCOPY, to))
		}, false, false},
		{"MSG_DONTROUTE", func(fd int, to unix.Sockaddr) error { return unix.Sendto(fd, small, unix.MSG_DONTROUTE, to) }, false, false},
		{"MSG_CONFIRM", func(fd int, to unix.Sockaddr) error { return unix.Sendto(fd, small, unix.MSG_CONFIRM, to) }, false, false},
		{"bound to the device", func(fd int, to unix.Sockaddr) error {
			return errors.Join(unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "tap0"), unix.Sendto(fd, small, 0, to),
				unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, ""))
		}, false, false},
	}
}

func connectAndSend(fd int, to unix.Sockaddr) error {
	if err := unix.Connect(fd, to); err != nil {
		return err
	}
	_, err := unix.Write(fd, []byte("payload"))
	return err
}

// connectedBefore sends on a socket that is connected to the very address.
func connectedBefore(fd int, to unix.Sockaddr) error {
	err := unix.Connect(fd, to)
	return errors.Join(err, unix.Sendto(fd, []byte("payload"), 0, to))
}

// sendmmsg sends one message by sendmmsg(2), which x/sys/unix lacks.
func sendmmsg(fd int, to unix.Sockaddr) error {
	name, size := rawSockaddr(to)
	payload := []byte("payload")
	vector := unix.Iovec{Base: &payload[0]}
	vector.SetLen(len(payload))
	message := struct {
		header unix.Msghdr
		length uint32
		_      [4]byte
	}{header: unix.Msghdr{Name: (*byte)(name), Namelen: size, Iov: &vector}}
	message.header.SetIovlen(1)
	_, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&message)), 1, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func rawSockaddr(to unix.Sockaddr) (unsafe.Pointer, uint32) {
	switch to := to.(type) {
	case *unix.SockaddrInet4:
		raw := &unix.RawSockaddrInet4{Family: unix.AF_INET, Port: uint16(wire16(to.Port)), Addr: to.Addr}
		return unsafe.Pointer(raw), uint32(unsafe.Sizeof(*raw))
	case *unix.SockaddrInet6:
		raw := &unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: uint16(wire16(to.Port)), Addr: to.Addr}
		return unsafe.Pointer(raw), uint32(unsafe.Sizeof(*raw))
	}
	return nil, 0
}

func wire16(port int) int32 { return onTheWire(uint16(port)) }

// family is one of the three kinds of peers that a UDP socket can have.
type family struct {
	name          string
	kind          spec.Kind
	mapped        bool
	client, other netip.AddrPort
}

func families() []family {
	return []family{
		{"v4", udp4(), false, client4, other4},
		{"v6", udp6(), false, client6, other6},
		{"mapped", udp6(), true, client4, other4},
	}
}

// Every way to send: to a client it works, to a stranger it does not, and without
// the seal it does, so that the test is known to see it.
func TestSend(t *testing.T) {
	p := open(t, 0)
	for _, f := range families() {
		for _, way := range ways() {
			t.Run(f.name+"/"+way.name, func(t *testing.T) {
				onWire(t, func(w *wire) { f.trySeal(w, p, way) })
			})
		}
	}
}

func (f family) trySeal(w *wire, p *Programs, way way) {
	fd := fdOf(w.t, sealed(w.t, p, f.kind))
	port := w.bound(fd, f.kind)
	w.heard(fd, port, f.client)
	w.sent()

	err := way.send(fd, sockaddr(f.other, f.mapped))
	if !errors.Is(err, unix.EPERM) && !(way.silent && err == nil) {
		w.t.Errorf("to a stranger: %v, want %v", err, unix.EPERM)
	}
	_ = ktest.Dissolve(fd)
	if sent := w.sent(); sent[f.other.Addr()] != 0 || sent[f.client.Addr()] != 0 {
		w.t.Fatalf("to a stranger: %v", sent)
	}
	w.expect("to a client", way, fd, f.client, f.mapped)
	plain := plainSocket(w.t, f.kind)
	w.bound(plain, f.kind)
	w.expect("without the seal", way, plain, f.other, f.mapped)
}

// expect sends, and the wire must show it.
func (w *wire) expect(what string, way way, fd int, to netip.AddrPort, mapped bool) {
	w.t.Helper()
	if err := way.send(fd, sockaddr(to, mapped)); err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
	sent := w.sent()[to.Addr()]
	if sent == 0 || way.large && sent < 2 || !way.large && sent != 1 {
		w.t.Fatalf("%s: %d packets", what, sent)
	}
	w.t.Logf("%s: %d packets", what, sent)
}

// An address alone is no client: the port counts too.
func TestOtherPort(t *testing.T) {
	p := open(t, 0)
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			onWire(t, func(w *wire) {
				fd := fdOf(t, sealed(t, p, f.kind))
				w.heard(fd, w.bound(fd, f.kind), f.client)
				to := netip.AddrPortFrom(f.client.Addr(), f.client.Port()+1)
				if err := unix.Sendto(fd, []byte("payload"), 0, sockaddr(to, f.mapped)); !errors.Is(err, unix.EPERM) {
					t.Errorf("%v, want %v", err, unix.EPERM)
				}
			})
		})
	}
}

// detour is a way to send a datagram, asked for a client, to somebody else first.
type detour struct {
	name string
	send func(fd int, client, first netip.AddrPort) error
}

func TestDetour4(t *testing.T) {
	p := open(t, 0)
	for _, d := range []detour{
		{"IP_RETOPTS, strict source route", func(fd int, client, first netip.AddrPort) error {
			return unix.Sendmsg(fd, []byte("payload"), control(unix.IPPROTO_IP, unix.IP_RETOPTS, sourceRoute(0x89, first)), sockaddr(client, false), 0)
		}},
		{"IP_RETOPTS, loose source route", func(fd int, client, first netip.AddrPort) error {
			return unix.Sendmsg(fd, []byte("payload"), control(unix.IPPROTO_IP, unix.IP_RETOPTS, sourceRoute(0x83, first)), sockaddr(client, false), 0)
		}},
		{"IP_OPTIONS", func(fd int, client, first netip.AddrPort) error {
			if err := unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, string(sourceRoute(0x89, first))); err != nil {
				return err
			}
			return unix.Sendto(fd, []byte("payload"), 0, sockaddr(client, false))
		}},
		{"IP_OPTIONS, connected", func(fd int, client, first netip.AddrPort) error {
			if err := unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, string(sourceRoute(0x89, first))); err != nil {
				return err
			}
			return connectAndSend(fd, sockaddr(client, false))
		}},
	} {
		t.Run(d.name, func(t *testing.T) {
			onWire(t, func(w *wire) { d.trySeal(w, p, families()[0]) })
		})
	}
}

func TestDetour6(t *testing.T) {
	p := open(t, 0)
	for _, d := range []detour{
		{"IPV6_DSTOPTS", func(fd int, client, first netip.AddrPort) error {
			return unix.Sendmsg(fd, []byte("payload"), control(unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, []byte{0, 0, 1, 4, 0, 0, 0, 0}), sockaddr(client, false), 0)
		}},
		{"IPV6_HOPOPTS", func(fd int, client, first netip.AddrPort) error {
			return unix.Sendmsg(fd, []byte("payload"), control(unix.IPPROTO_IPV6, unix.IPV6_HOPOPTS, []byte{0, 0, 1, 4, 0, 0, 0, 0}), sockaddr(client, false), 0)
		}},
		{"a segment routing header", func(fd int, client, first netip.AddrPort) error {
			return afterRoutingHeader(fd, first, func() error { return unix.Sendto(fd, []byte("payload"), 0, sockaddr(client, false)) })
		}},
		{"a segment routing header, connected", func(fd int, client, first netip.AddrPort) error {
			return afterRoutingHeader(fd, first, func() error { return connectAndSend(fd, sockaddr(client, false)) })
		}},
	} {
		t.Run(d.name, func(t *testing.T) {
			onWire(t, func(w *wire) { d.trySeal(w, p, families()[1]) })
		})
	}
}

// try: without the seal the detour leads somewhere, with it nowhere.
func (d detour) trySeal(w *wire, p *Programs, f family) {
	plain := plainSocket(w.t, f.kind)
	w.bound(plain, f.kind)
	w.sent()
	if err := d.send(plain, f.client, f.other); err != nil {
		w.t.Fatalf("without the seal: %v", err)
	}
	went := w.sent()
	if went[f.client.Addr()]+went[f.other.Addr()] == 0 {
		w.t.Fatalf("without the seal it went to %v", went)
	}
	w.t.Logf("without the seal it went to %v", went)

	fd := fdOf(w.t, sealed(w.t, p, f.kind))
	w.heard(fd, w.bound(fd, f.kind), f.client)
	w.sent()
	if err := d.send(fd, f.client, f.other); !errors.Is(err, unix.EPERM) {
		w.t.Errorf("sealed: %v, want %v", err, unix.EPERM)
	}
	if sent := w.sent(); sent[f.client.Addr()]+sent[f.other.Addr()] != 0 {
		w.t.Errorf("sealed: went to %v", sent)
	}
}

// control returns one control message, cmsg(3).
func control(level, kind int, data []byte) []byte {
	b := make([]byte, unix.CmsgSpace(len(data)))
	header := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	header.Level, header.Type = int32(level), int32(kind)
	header.SetLen(unix.CmsgLen(len(data)))
	copy(b[unix.CmsgLen(0):], data)
	return b
}

// sourceRoute is an option of RFC 791 that leads to first before the destination.
func sourceRoute(kind byte, first netip.AddrPort) []byte {
	return append(append([]byte{kind, 7, 4}, first.Addr().AsSlice()...), 0)
}

// afterRoutingHeader gives the socket a routing header of type 4 (RFC 8754), which
// needs no privilege, and sends. The kernel writes the destination into the last
// segment.
func afterRoutingHeader(fd int, first netip.AddrPort, send func() error) error {
	header := append([]byte{0, 4, 4, 1, 1, 0, 0, 0}, make([]byte, 16)...)
	header = append(header, first.Addr().AsSlice()...)
	if err := unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_RTHDR, string(header)); err != nil {
		return err
	}
	return send()
}

// The kernel hands a copy of a multicast or broadcast to the host's own listeners,
// and egress does not see the copy.
func TestCopiesForTheHost(t *testing.T) {
	p := open(t, 0)
	group4, all4, ones4 := netip.MustParseAddr("239.1.2.3"), netip.MustParseAddr("10.9.255.255"), netip.MustParseAddr("255.255.255.255")
	group6 := netip.MustParseAddr("ff15::7")
	type send = func(fd int, to netip.AddrPort) error
	plainly := func(mapped bool) send {
		return func(fd int, to netip.AddrPort) error {
			return unix.Sendto(fd, []byte("payload"), 0, sockaddr(to, mapped))
		}
	}
	connected := func(mapped bool) send {
		return func(fd int, to netip.AddrPort) error { return connectAndSend(fd, sockaddr(to, mapped)) }
	}
	for _, tt := range []struct {
		name string
		kind spec.Kind
		to   netip.Addr
		send send
	}{
		{"multicast", udp4(), group4, plainly(false)},
		{"multicast, connected", udp4(), group4, connected(false)},
		{"multicast, mapped", udp6(), group4, plainly(true)},
		{"multicast, mapped and connected", udp6(), group4, connected(true)},
		{"multicast, from a v6 socket that became v4", udp6(), group4, becomeV4},
		{"multicast v6", udp6(), group6, plainly(false)},
		{"multicast v6, connected", udp6(), group6, connected(false)},
		{"broadcast of the net", udp4(), all4, plainly(false)},
		{"broadcast of the net, connected", udp4(), all4, connected(false)},
		{"broadcast", udp4(), ones4, plainly(false)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			onWire(t, func(w *wire) {
				w.copies(p, tt.kind, tt.to, tt.send)
			})
		})
	}
}

// becomeV4 connects to a mapped address and then turns the socket into one of
// IPv4, ipv6(7), so that it sends as a connected socket of IPv4.
func becomeV4(fd int, to netip.AddrPort) error {
	if err := unix.Connect(fd, sockaddr(to, true)); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_ADDRFORM, unix.AF_INET); err != nil {
		return err
	}
	_, err := unix.Write(fd, []byte("payload"))
	return err
}

func (w *wire) copies(p *Programs, kind spec.Kind, to netip.Addr, send func(int, netip.AddrPort) error) {
	listener, port := w.listener(to)
	plain := plainSocket(w.t, kind)
	w.prepare(plain, kind)
	err := send(plain, netip.AddrPortFrom(to, port))
	if errors.Is(err, unix.ENOPROTOOPT) {
		w.t.Skip("a kernel whose sockets keep their family")
	}
	if err != nil {
		w.t.Fatalf("without the seal: %v", err)
	}
	if got := w.next(listener); got != "payload" {
		w.t.Fatalf("without the seal the host's listener heard %q", got)
	}
	fd := fdOf(w.t, sealed(w.t, p, kind))
	w.prepare(fd, kind)
	if err := send(fd, netip.AddrPortFrom(to, port)); !errors.Is(err, unix.EPERM) {
		w.t.Errorf("sealed: %v, want %v", err, unix.EPERM)
	}
	w.mark(to, port)
	if got := w.next(listener); got != "marker" {
		w.t.Errorf("sealed, the host's listener heard %q", got)
	}
	if sent := w.sent(); sent[to] > 2 { // the plain one's and the marker's
		w.t.Errorf("sealed: went to %v", sent)
	}
}

func (w *wire) prepare(fd int, kind spec.Kind) {
	w.bound(fd, kind)
	w.must("SO_BROADCAST", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1))
	w.must("SO_BINDTODEVICE", unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "tap0"))
	w.must("IP_MULTICAST_IF", unix.SetsockoptInet4Addr(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, host4.As4()))
	if kind.Family == unix.AF_INET6 {
		w.must("IPV6_MULTICAST_IF", unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, w.index()))
	}
}

func (w *wire) index() int {
	control := plainSocket(w.t, udp4())
	r := w.request("tap0")
	w.must("SIOCGIFINDEX", unix.IoctlIfreq(control, unix.SIOCGIFINDEX, r))
	return int(r.Uint32())
}

// listener is a program of the host that listens to a group or to broadcasts.
func (w *wire) listener(to netip.Addr) (fd int, port uint16) {
	kind := udp4()
	if to.Is6() {
		kind = udp6()
	}
	fd = plainSocket(w.t, kind)
	port = w.bound(fd, kind)
	switch {
	case to.Is6():
		w.must("join", unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &unix.IPv6Mreq{Multiaddr: to.As16(), Interface: uint32(w.index())}))
	case to.IsMulticast():
		w.must("join", unix.SetsockoptIPMreq(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreq{Multiaddr: to.As4(), Interface: host4.As4()}))
	}
	return fd, port
}

// mark sends from an unsealed socket, after what should not have come.
func (w *wire) mark(to netip.Addr, port uint16) {
	kind := udp4()
	if to.Is6() {
		kind = udp6()
	}
	fd := plainSocket(w.t, kind)
	w.prepare(fd, kind)
	w.must("marker", unix.Sendto(fd, []byte("marker"), 0, sockaddr(netip.AddrPortFrom(to, port), false)))
}

func (w *wire) next(fd int) string {
	var buffer [64]byte
	n, _, err := unix.Recvfrom(fd, buffer[:], 0)
	if err != nil {
		return fmt.Sprint(err)
	}
	return string(buffer[:n])
}

// A source route that begins at a multicast address makes the copy for the host of
// a packet to that address, and no program sees it. The host drops it: a packet with
// a source route is taken only if it came in for the host alone (ip_options_rcv_srr()),
// whatever accept_source_route says, with and without the seal.
func TestSourceRouteToAGroup(t *testing.T) {
	p := open(t, 0)
	onWire(t, func(w *wire) {
		w.must("accept_source_route", os.WriteFile("/proc/sys/net/ipv4/conf/all/accept_source_route", []byte("1"), 0))
		group := netip.MustParseAddr("239.1.2.3")
		listener, port := w.listener(group)
		client := netip.AddrPortFrom(client4.Addr(), port)
		route := control(unix.IPPROTO_IP, unix.IP_RETOPTS, sourceRoute(0x89, netip.AddrPortFrom(group, 0)))
		plain, fd := plainSocket(t, udp4()), fdOf(t, sealed(t, p, udp4()))
		w.prepare(plain, udp4())
		w.prepare(fd, udp4())
		at, err := unix.Getsockname(fd)
		w.must("getsockname", err)
		w.heard(fd, addrPort(at).Port(), client)
		if err := unix.Sendmsg(plain, []byte("payload"), route, sockaddr(client, false), 0); err != nil {
			t.Errorf("without the seal: %v", err)
		}
		if err := unix.Sendmsg(fd, []byte("payload"), route, sockaddr(client, false), 0); !errors.Is(err, unix.EPERM) {
			t.Errorf("sealed: %v, want %v", err, unix.EPERM)
		}
		w.mark(group, port)
		if got := w.next(listener); got != "marker" {
			t.Errorf("the host's listener heard %q", got)
		}
	})
}
