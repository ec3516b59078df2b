package netns

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

// Bound is where the program takes datagrams: the UDP sockets that it has bound to
// an address. It is one goroutine's, which need not be that of the room.
type Bound struct {
	room    *Room
	address Address
	diag    int
	sockets []bound   // as of the last look
	gone    int       // those that the program has closed
	seen    time.Time // the last look in Toward
}

// bound is a socket of the program.
type bound struct {
	ip     netip.Addr
	only   bool // of IPv6, and takes no IPv4
	cookie uint64
	unread int // bytes of its receive buffer
	room   int // bytes that may be added
}

// Bound returns where the program takes the datagrams for a, an address of UDP. The
// caller closes it. Every address becomes local inside.
func (r *Room) Bound(a Address) (*Bound, error) {
	if a.IP.IsValid() {
		a.IP = a.IP.Unmap().WithZone("")
		a.Four, a.Six = a.IP.Is4(), a.IP.Is6()
	}
	if err := r.makeLocal(); err != nil {
		return nil, err
	}
	fds, err := r.sockets(diagKind)
	if err != nil {
		return nil, err
	}
	return &Bound{room: r, address: a, diag: fds[0]}, nil
}

// Close closes what Bound opened; sockets that were made live on.
func (b *Bound) Close() {
	if b.diag >= 0 {
		_ = unix.Close(b.diag)
		b.diag = -1
	}
}

// Look reports whether the program has bound the address.
func (b *Bound) Look() (bool, error) {
	before := slices.Clone(b.sockets)
	b.sockets = b.sockets[:0]
	var err error
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		e := request(b.diag, b.question(family, unix.NLM_F_DUMP, netip.Addr{}), func(msg []byte) {
			if s, ok := b.read(msg); ok {
				b.sockets = append(b.sockets, s)
			}
		})
		if e != nil && !errors.Is(e, unix.ENOENT) && !errors.Is(e, unix.EAFNOSUPPORT) {
			err = e
		}
	}
	for _, old := range before {
		if !slices.ContainsFunc(b.sockets, func(s bound) bool { return s.cookie == old.cookie }) {
			b.gone++
		}
	}
	return len(b.sockets) > 0, err
}

const (
	stateUnconnected = 7 // TCP_CLOSE of include/net/tcp_states.h
	skMeminfo        = 7 // INET_DIAG_SKMEMINFO
	sizeInetDiagMsg  = 72
)

// question is struct inet_diag_req_v2, linux/inet_diag.h: who has bound the port, or
// without a dump who has bound just ip.
func (b *Bound) question(family int, flags uint16, ip netip.Addr) []byte {
	req := header(unix.SOCK_DIAG_BY_FAMILY, flags, 56)
	req = append(req, byte(family), unix.IPPROTO_UDP, 1<<(skMeminfo-1), 0)
	req = binary.NativeEndian.AppendUint32(req, 1<<stateUnconnected)
	if flags != 0 {
		req = binary.BigEndian.AppendUint16(req, b.address.Port)
		return append(req, make([]byte, cap(req)-len(req))...)
	}
	// The one that a datagram to ip would go to: its address is the "destination",
	// udp_dump_one.
	req = append(req, 0, 0)
	req = binary.BigEndian.AppendUint16(req, b.address.Port)
	req = append(req, make([]byte, 16)...)
	req = append(append(req, ip.AsSlice()...), make([]byte, 16-len(ip.AsSlice()))...)
	req = binary.NativeEndian.AppendUint32(req, loopback)
	noCookie := ^uint64(0) // INET_DIAG_NOCOOKIE, twice
	return binary.NativeEndian.AppendUint64(req, noCookie)
}

// read reads struct inet_diag_msg; ok: the socket is one that the address means.
func (b *Bound) read(msg []byte) (s bound, ok bool) {
	const skV6Only = 11 // INET_DIAG_SKV6ONLY
	if len(msg) < sizeInetDiagMsg || binary.BigEndian.Uint16(msg[4:]) != b.address.Port || msg[1] != stateUnconnected {
		return s, false
	}
	s.ip = netip.AddrFrom4([4]byte(msg[8:12]))
	if msg[0] == unix.AF_INET6 {
		s.ip = netip.AddrFrom16([16]byte(msg[8:24]))
		s.only = !s.ip.Is4In6() && !s.ip.IsUnspecified()
		s.ip = s.ip.Unmap()
	}
	s.cookie = binary.NativeEndian.Uint64(msg[44:])
	s.unread = int(binary.NativeEndian.Uint32(msg[56:])) // idiag_rqueue
	attributes(msg[sizeInetDiagMsg:], func(kind uint16, value []byte) {
		switch {
		case kind == skV6Only && len(value) > 0:
			s.only = s.only || value[0] != 0
		case kind == skMeminfo && len(value) >= 8:
			used, buffer := binary.NativeEndian.Uint32(value), binary.NativeEndian.Uint32(value[4:])
			s.room = int(buffer)/2 - int(used)
		}
	})
	return s, b.means(s)
}

// means reports whether the address means s.
func (b *Bound) means(s bound) bool {
	want := b.address.IP
	if want.IsValid() && !want.IsUnspecified() {
		return s.ip == want || s.covers(want.Is4())
	}
	return b.address.Four && (s.ip.Is4() || s.covers(true)) || b.address.Six && s.ip.Is6()
}

// covers reports whether s takes datagrams for every address of a family.
func (s bound) covers(four bool) bool {
	return s.ip.IsUnspecified() && (s.ip.Is4() == four || four && !s.only)
}

// Queue asks for what the program has not read. It costs some microseconds for one
// socket of a family. For more of them the kernel walks its table of all.
func (b *Bound) Queue() (spec.Queue, error) {
	if n := len(b.sockets); n == 0 || n > 2 || !b.askAgain() {
		if _, err := b.Look(); err != nil {
			return spec.Queue{}, err
		}
	}
	q := spec.Queue{Gone: b.gone}
	for _, s := range b.sockets {
		if !q.There || s.room < q.Room {
			q.Room = s.room
		}
		q.There = true
		q.Unread += s.unread
	}
	return q, nil
}

// askAgain asks for each socket by itself; false: there are others now.
func (b *Bound) askAgain() bool {
	for i := range b.sockets {
		known := &b.sockets[i]
		family := unix.AF_INET
		if known.ip.Is6() {
			family = unix.AF_INET6
		}
		same := false
		err := requestOne(b.diag, b.question(family, 0, known.ip), func(msg []byte) {
			s, ok := b.read(msg)
			if same = ok && s.cookie == known.cookie; same {
				*known = s
			}
		})
		if err != nil || !same {
			return false
		}
	}
	return true
}

// requestOne is request for a question that has one answer and no end.
func requestOne(socket int, message []byte, each func(body []byte)) error {
	if err := unix.Sendto(socket, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	var buf [1024]byte
	n, _, err := unix.Recvfrom(socket, buf[:], 0)
	if err != nil {
		return os.NewSyscallError("recvfrom", err)
	}
	_, err = messages(buf[:n], each)
	return err
}

// Toward is where to send the datagrams of a client that has asked an address of the
// host, not valid where that is not known; and whether they can have the client's own
// address. A program that has bound every address sees what the client asked.
func (b *Bound) Toward(client, asked netip.Addr) (to netip.AddrPort, own bool) {
	client, asked = client.Unmap(), asked.Unmap()
	four := client.Is4()
	ip := b.toward(four, asked)
	if !ip.IsValid() && time.Since(b.seen) > lookPause {
		b.seen = time.Now()
		if _, err := b.Look(); err == nil { // it may have bound it since
			ip = b.toward(four, asked)
		}
	}
	if ip.IsValid() {
		return netip.AddrPortFrom(ip, b.address.Port), true
	}
	if ip = b.toward(!four, netip.Addr{}); !ip.IsValid() {
		return to, false
	}
	return netip.AddrPortFrom(ip, b.address.Port), false
}

// toward is the address for one family, not valid if there is none.
func (b *Bound) toward(four bool, asked netip.Addr) (ip netip.Addr) {
	for _, s := range b.sockets {
		want, all := b.address.IP, s.covers(four)
		switch {
		case !all && s.ip.Is4() != four:
		case want.IsValid() && !want.IsUnspecified():
			if want.Is4() == four {
				return want
			}
		case asked.IsValid() && asked.Is4() == four && (all || s.ip == asked):
			return asked
		case !all:
			ip = s.ip
		case !ip.IsValid() && four:
			ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		case !ip.IsValid():
			ip = netip.IPv6Loopback()
		}
	}
	return ip
}

// Sockets makes n datagram sockets of a family inside, or fewer, close-on-exec and
// non-blocking, that may have any client's address, ip(7). The caller closes them.
func (b *Bound) Sockets(family, n int) ([]int, error) {
	return b.room.datagrams(family, min(n, mostAhead))
}
