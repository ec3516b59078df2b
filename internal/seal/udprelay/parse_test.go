package udprelay

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestControlMessages(t *testing.T) {
	ip := netip.MustParseAddr("2001:db8::1")
	b := appendSegment(appendFrom6(nil, ip, 7), 1200)
	parsed, err := unix.ParseSocketControlMessage(b)
	if err != nil || len(parsed) != 2 {
		t.Fatalf("%v %v", parsed, err)
	}
	if len(b) > ctlSize {
		t.Errorf("%d bytes have no room", len(b))
	}
	if p := findControl(b, unix.SOL_IPV6, unix.IPV6_PKTINFO); len(p) != unix.SizeofInet6Pktinfo || netip.AddrFrom16([16]byte(p)) != ip {
		t.Errorf("IPV6_PKTINFO is %v", p)
	}
	if p := findControl(b, unix.SOL_UDP, unix.UDP_SEGMENT); len(p) != 2 || binary.NativeEndian.Uint16(p) != 1200 {
		t.Errorf("UDP_SEGMENT is %v", p)
	}
	if p := findControl(b, unix.SOL_IP, unix.IP_PKTINFO); p != nil {
		t.Errorf("IP_PKTINFO is %v", p)
	}
}

func TestAlike(t *testing.T) {
	for _, row := range []struct {
		sizes []uint32
		gso   int
		want  int
	}{
		{[]uint32{5, 5, 5}, 1472, 3},
		{[]uint32{5, 5, 3, 5}, 1472, 3},
		{[]uint32{5, 6}, 1472, 1},
		{[]uint32{5, 0}, 1472, 1},
		{[]uint32{0, 0}, 1472, 1},
		{[]uint32{1473, 1473}, 1472, 1},
		{[]uint32{5, 5}, 0, 1},
		{[]uint32{16384, 16384, 16384, 16384}, 16384, 3},
	} {
		b := newBatch()
		for i, n := range row.sizes {
			b.in[i].n = n
		}
		if k := b.countAlike(0, len(row.sizes), row.gso); k != row.want {
			t.Errorf("%v: %d are alike, not %d", row.sizes, k, row.want)
		}
	}
}

func TestStall(t *testing.T) {
	var s stall
	for range 20 {
		s.begin(0)
	}
	if s.delay != longestStall || s.isOver(0) || !s.isOver(s.until) {
		t.Errorf("%+v", s)
	}
}

// FuzzControl: control messages are the kernel's, but nothing may be read beyond.
func FuzzControl(f *testing.F) {
	f.Add(appendFrom4(nil, netip.MustParseAddr("127.0.0.1")))
	f.Add(appendSegment(appendFrom6(nil, netip.IPv6Loopback(), 1), 9))
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, kind := range []int32{unix.IP_PKTINFO, unix.IPV6_PKTINFO, unix.SCM_CREDENTIALS} {
			if p := findControl(b, unix.SOL_IP, kind); len(p) > len(b) {
				t.Fatalf("%d of %d bytes", len(p), len(b))
			}
		}
		senderOf(b)
	})
}
