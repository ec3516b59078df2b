package listen

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
)

// poisons are values that some option takes and that are not its own.
func poisons() [][]byte {
	var all [][]byte
	for _, n := range []int32{1, 0, 2, 3, 9, 100, 2000, 70000, 300000, -1} {
		all = append(all, binary.NativeEndian.AppendUint32(nil, uint32(n)))
	}
	long := func(ns ...uint64) (b []byte) {
		for _, n := range ns {
			b = binary.NativeEndian.AppendUint64(b, n)
		}
		return b
	}
	return append(all, long(7, 0), long(1<<32|1), long(1), long(100<<20),
		[]byte{1, 1, 1, 0},             // IP_OPTIONS: no operation, end
		[]byte{127, 0, 0, 1},           // IP_MULTICAST_IF
		[]byte{0, 0, 0, 1},             // IP_UNICAST_IF: lo
		[]byte{0, 0, 1, 4, 0, 0, 0, 0}, // IPV6_DSTOPTS: padding
		[]byte("reno"), []byte("tls"))
}

// poison sets an option to something that reads other than before.
func poison(fd int, o *lasting, l levels) (changed bool) {
	var one, two value
	before, ok := o.read(fd, l, &one)
	if !ok {
		return false
	}
	for _, v := range poisons() {
		if o.write(fd, o.name, v) != nil {
			continue
		}
		if now, ok := o.read(fd, l, &two); ok && !bytes.Equal(now, before) {
			return true
		}
	}
	return false
}

// rarely are the options that nothing changes on a socket of ours, and why.
var rarely = map[string]string{
	"IPV6_ADDRFORM": "needs a connection, see TestHidden", "IPV6_V6ONLY": "not after bind",
	"TCP_REPAIR": "not on a listener", "TCP_FASTOPEN_CONNECT": "not on a listener", "TCP_ULP": "not on a listener",
	"SO_RESERVE_MEM": "needs a memory cgroup", "IPV6_RTHDR": "needs mobile IPv6",
	"IPV6_MTU": "cannot be read, see TestBlind", "IPV6_PKTINFO": "cannot be read, see TestBlind",
}

// aliases are other names of one flag, of which one is told.
var aliases = map[string]string{"SO_TIMESTAMPNS": "SO_TIMESTAMP", "SO_TIMESTAMP_NEW": "SO_TIMESTAMP", "SO_TIMESTAMPNS_NEW": "SO_TIMESTAMP",
	"SO_TIMESTAMPING_NEW": "SO_TIMESTAMPING", "IPV6_TRANSPARENT": "IP_TRANSPARENT", "IPV6_FREEBIND": "IP_FREEBIND"}

// configured sets what the configuration can, as far as anybody may.
func configured(o *Options) {
	*o = Options{KeepAlive: true, KeepAliveTime: 61 * time.Second, KeepAliveInterval: 7 * time.Second, KeepAliveProbes: 5,
		NoDelay: true, DeferAccept: 3 * time.Second, ReceiveBuffer: 65536, SendBuffer: 70000, Priority: 5, PrioritySet: true,
		IPTOS: 0x10, IPTOSSet: true, IPTTL: 9, FreeBind: true, ReusePort: true, Timestamping: "ns"}
}

// TestLasting lets a service change every option of every kind of socket and
// holds that the next one finds them all as they were.
func TestLasting(t *testing.T) {
	seen := make(map[string]string) // by option: what was done about it
	r := &relays{t: t}
	sockets := []*Socket{
		openWith(t, fmt.Sprint("udp://127.0.0.1:", freePort(t)), Relayed, r.means()),
		open(t, fmt.Sprint("tcp://127.0.0.1:", freePort(t)), configured),
		open(t, fmt.Sprint("udp://127.0.0.1:", freePort(t)), func(o *Options) {
			o.ReceiveBuffer, o.IPTOS, o.IPTOSSet, o.IPTTL, o.PassPacketInfo, o.Timestamping = 100000, 4, true, 1, true, "us"
		}),
		open(t, "unix://"+t.TempDir()+"/s", func(o *Options) { o.PassCredentials, o.PassSecurity, o.Timestamping = true, true, "us" }),
	}
	if s, err := Open(spec(t, fmt.Sprint("tcp://127.0.0.1:", freePort(t)), func(o *Options) { o.MPTCP = true }), Means{}); err == nil {
		defer s.Close()
		sockets = append(sockets, s)
	} else if !errors.Is(err, unix.EPROTONOSUPPORT) && !errors.Is(err, unix.ENOPROTOOPT) {
		t.Error(err)
	}
	for _, address := range addresses(t) {
		if s := open(t, address); s.Spec().Address.Network != FIFO {
			sockets = append(sockets, s)
		}
	}
	readable := make(map[string]bool)
	for _, s := range sockets {
		for i := range lastings {
			o := &lastings[i]
			if o.back == optmem || o.back == appears {
				continue
			}
			if did := poisonAndMend(t, s, o, readable); did != "" {
				seen[o.text] = did
			}
		}
		answer := client(t, s)
		serveOne(t, s)
		answer()
	}
	for text := range readable {
		if rarely[text] == "" && seen[text] == "" && os.Geteuid() == 0 {
			t.Errorf("%s was not changed by any of the poisons", text)
		}
	}
	for _, text := range slices.Sorted(maps.Keys(seen)) {
		if seen[text] != "set back" {
			t.Logf("%s: %s", text, seen[text])
		}
	}
}

func poisonAndMend(t *testing.T, s *Socket, o *lasting, readable map[string]bool) (did string) {
	t.Helper()
	changed := false
	var before state
	generation := s.Generation()
	asService(t, s, func(fd int) {
		before = *s.condition()
		var buf value
		if _, ok := o.read(fd, before.levels, &buf); ok {
			readable[o.text] = true
		}
		changed = poison(fd, o, before.levels)
	})
	what, err := s.Mend()
	if err != nil {
		t.Fatalf("%s: %s: Mend: %v", s, o.text, err)
	}
	if !changed {
		if what != "" {
			t.Errorf("%s: %s: nothing reads changed, but %q", s, o.text, what)
		}
		return ""
	}
	did = "set back"
	if s.Generation() != generation {
		did = "anew" // of MPTCP buffers only SO_BUF_LOCK is stuck, which they set
	}
	if named := strings.Contains(what, o.text) || strings.Contains(what, cmp.Or(aliases[o.text], o.text)) || (did == "anew" && strings.Contains(what, "had set SO_BUF_LOCK")); !named || !strings.Contains(what, did) {
		t.Errorf("%s: %s: Mend says %q", s, o.text, what)
	}
	asService(t, s, func(int) {
		if after := stateOf(s.front()); !bytes.Equal(after.record, before.record) {
			t.Errorf("%s: %s: other options after Mend: %s", s, o.text, differences(before.record, after.record))
		}
	})
	if what, err := s.Mend(); what != "" || err != nil {
		t.Errorf("%s: %s: second Mend: %q, %v", s, o.text, what, err)
	}
	return did
}

// differences names the options in which two records differ.
func differences(a, b []byte) string {
	var text []string
	for i := range lastings {
		var one, two []byte
		one, a = nextValue(a)
		two, b = nextValue(b)
		if !bytes.Equal(one, two) {
			text = append(text, fmt.Sprintf("%s %x, now %x", lastings[i].text, one, two))
		}
	}
	return strings.Join(text, "; ")
}

func nextValue(record []byte) (value, rest []byte) {
	if record[0] == unread {
		return nil, record[1:]
	}
	size := 1 + int(record[0])
	return record[1:size], record[size:]
}

// notLasting are options that change by themselves or say what is not of an
// option: see the comment of lastings.
var notLasting = map[[2]int]bool{
	{unix.SOL_SOCKET, unix.SO_ERROR}: true, {unix.SOL_SOCKET, unix.SO_INCOMING_CPU}: true, {unix.SOL_SOCKET, unix.SO_MEMINFO}: true,
	{unix.SOL_SOCKET, unix.SO_COOKIE}:      true, // of a socket bound anew
	{unix.IPPROTO_TCP, unix.TCP_TIMESTAMP}: true, {unix.IPPROTO_TCP, unix.TCP_INFO}: true, {unix.IPPROTO_TCP, unix.TCP_FASTOPEN_KEY}: true,
	{unix.SOL_SOCKET, unix.SO_PEERPIDFD}: true, // it makes a descriptor
	{unix.IPPROTO_TCP, unix.TCP_MAXSEG}:  true, // also of the last path; the limit of the service is in the same number
}

// TestEveryNumber sets every option number of every level to everything, known
// or not, and holds that Mend leaves nothing changed: this finds what lastings
// lacks, also of a newer kernel.
func TestEveryNumber(t *testing.T) {
	for _, address := range addresses(t) {
		s := open(t, address)
		if s.Spec().Address.Network == FIFO {
			continue
		}
		before := everyNumber(t, s)
		for key := range before {
			for _, v := range [][]byte{{1, 0, 0, 0}, {0, 0, 1, 0}, binary.NativeEndian.AppendUint64(nil, 1<<32|1), {7, 15: 0}} {
				everyNumberOnce(t, s, key, v, before)
			}
		}
		answer := client(t, s)
		serveOne(t, s)
		answer()
	}
}

func everyNumberOnce(t *testing.T, s *Socket, key [2]int, v []byte, before map[[2]int]string) {
	t.Helper()
	var err error
	asService(t, s, func(fd int) { err = rawOption(fd, key[0], key[1], v) })
	if err != nil {
		return
	}
	what, err := s.Mend()
	if err != nil {
		t.Fatalf("%s: level %d, option %d: %v", s, key[0], key[1], err)
	}
	_ = control(s.file, func(fd int) error {
		var buf value
		for other := range before {
			o := &lasting{level: other[0], name: other[1]}
			if after, _ := o.read(fd, s.state.levels, &buf); before[other] != string(after) {
				t.Errorf("%s: level %d, option %d set to %x: level %d, option %d: %x before, %x after Mend, which says %q",
					s, key[0], key[1], v, other[0], other[1], before[other], after, what)
			}
		}
		return nil
	})
}

func everyNumber(t *testing.T, s *Socket) map[[2]int]string {
	t.Helper()
	all := make(map[[2]int]string)
	asService(t, s, func(fd int) {
		var buf value
		for _, level := range []int{unix.SOL_SOCKET, unix.IPPROTO_IP, unix.IPPROTO_IPV6, unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			for name := range 256 {
				key := [2]int{level, name}
				if notLasting[key] {
					continue
				}
				o := &lasting{level: level, name: name}
				if s.Spec().Address.Stream() && slices.ContainsFunc(lastings, func(known lasting) bool {
					return known.level == level && known.name == name && known.back&gram != 0
				}) {
					continue
				}
				if now, ok := o.read(fd, s.state.levels, &buf); ok {
					all[key] = string(now)
				}
			}
		}
	})
	return all
}

// hidden is what a service can leave that no option reads.
type hidden struct {
	name    string
	applies func(a Address) bool
	do      func(fd int, a Address) error
}

func rawOption(fd, level, name int, value []byte) error {
	return (&lasting{level: level}).write(fd, name, value)
}

var hiddens = []hidden{
	{"TCP_MD5SIG", func(a Address) bool { return a.TCP() && a.IP.Is4() }, func(fd int, _ Address) error {
		var sig [216]byte // struct tcp_md5sig, linux/tcp.h
		binary.NativeEndian.PutUint16(sig[0:], unix.AF_INET)
		copy(sig[4:], []byte{192, 0, 2, 1})
		binary.NativeEndian.PutUint16(sig[130:], 3)
		copy(sig[136:], "key")
		return rawOption(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG, sig[:])
	}},
	{"TCP_AO_ADD_KEY", func(a Address) bool { return a.TCP() && a.IP.Is4() }, func(fd int, _ Address) error {
		var key [296]byte // struct tcp_ao_add, linux/tcp.h
		binary.NativeEndian.PutUint16(key[0:], unix.AF_INET)
		copy(key[4:], []byte{192, 0, 2, 1})
		copy(key[128:], "hmac(sha1)")
		key[206], key[211] = 32, 3
		copy(key[216:], "key")
		return rawOption(fd, unix.IPPROTO_TCP, 38, key[:])
	}},
	{"IP_ADD_MEMBERSHIP", func(a Address) bool { return a.UDP() && !a.IP.Is6() }, func(fd int, _ Address) error {
		return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: [4]byte{224, 0, 0, 251}, Ifindex: 1})
	}},
	{"IPV6_ADDRFORM", func(a Address) bool { return a.Network == UDP && !a.IP.IsValid() }, func(fd int, a Address) error {
		mapped := netip.MustParseAddr("::ffff:127.0.0.1").As16()
		if err := unix.Connect(fd, &unix.SockaddrInet6{Addr: mapped, Port: int(a.Port)}); err != nil {
			return err
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_ADDRFORM, unix.AF_INET)
	}},
	{"IPV6_ADD_MEMBERSHIP", func(a Address) bool { return a.UDP() && a.IP.Is6() }, func(fd int, _ Address) error {
		return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_ADD_MEMBERSHIP, &unix.IPv6Mreq{Multiaddr: [16]byte{0xff, 2, 15: 0xfb}, Interface: 1})
	}},
}

// TestHidden leaves what only the memory it takes shows, or the family.
func TestHidden(t *testing.T) {
	for _, h := range hiddens {
		t.Run(h.name, func(t *testing.T) {
			for _, address := range addresses(t) {
				s := open(t, address)
				if !h.applies(s.Spec().Address) {
					continue
				}
				var err error
				asService(t, s, func(fd int) { err = h.do(fd, s.Spec().Address) })
				if err == unix.ENOPROTOOPT {
					t.Logf("%s: not in this kernel", s)
					continue
				}
				if err != nil {
					t.Fatalf("%s: %v", s, err)
				}
				if what, err := s.Mend(); !strings.Contains(what, "bound anew") || err != nil {
					t.Errorf("%s: Mend: %q, %v", s, what, err)
				}
				answer := client(t, s)
				serveOne(t, s)
				answer()
			}
		})
	}
}

// TestBlind leaves what cannot be read and shows by what is sent.
func TestBlind(t *testing.T) {
	if !hasIPv6() {
		t.Skip("no IPv6")
	}
	s := open(t, fmt.Sprint("udp6://:", freePort(t)))
	self := &unix.SockaddrInet6{Addr: [16]byte{15: 1}, Port: int(s.Spec().Address.Port)}
	send := func(fd int) error { return unix.Sendto(fd, make([]byte, 1400), 0, self) }
	asService(t, s, func(fd int) {
		for _, name := range []int{unix.IPV6_MTU, unix.IPV6_DONTFRAG} {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, name, 1280); err != nil && name == unix.IPV6_MTU {
				t.Fatal(err)
			}
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1); err != nil {
			t.Fatal(err)
		}
		if err := send(fd); err != unix.EMSGSIZE {
			t.Errorf("with IPV6_MTU of 1280: %v", err)
		}
	})
	if what, err := s.Mend(); err != nil {
		t.Errorf("Mend: %q, %v", what, err)
	}
	asService(t, s, func(fd int) {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1); err != nil {
			t.Fatal(err)
		}
		if err := send(fd); err != nil {
			t.Errorf("after Mend: %v", err)
		}
	})
}

// TestHeldBack leaves half a datagram, which would take the next answer along.
func TestHeldBack(t *testing.T) {
	for _, address := range addresses(t) {
		s := open(t, address)
		if !s.Spec().Address.UDP() {
			continue
		}
		other := open(t, fmt.Sprint("udp://127.0.0.1:", freePort(t)))
		to := unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: int(other.Spec().Address.Port)})
		if s.state.levels.domain == unix.AF_INET6 {
			other = open(t, fmt.Sprint("udp6://:", freePort(t)))
			to = &unix.SockaddrInet6{Addr: [16]byte{15: 1}, Port: int(other.Spec().Address.Port)}
		}
		asService(t, s, func(fd int) {
			if err := unix.Sendto(fd, []byte("half"), unix.MSG_MORE, to); err != nil {
				t.Fatal(err)
			}
		})
		if what, err := s.Mend(); err != nil || s.Generation() != 0 {
			t.Errorf("%s: Mend: %q, %v", s, what, err)
		}
		answer := client(t, s)
		serveOne(t, s)
		answer()
	}
}

// TestDisown asks for signals, which would go to whoever has the pid later.
func TestDisown(t *testing.T) {
	for _, address := range addresses(t) {
		s := open(t, address)
		for _, how := range []struct{ command, value int }{{unix.F_SETOWN, os.Getpid()}, {unix.F_SETOWN, -unix.Getpgrp()}, {unix.F_SETSIG, int(unix.SIGURG)}, {unix.F_SETFL, unix.O_ASYNC}} {
			asService(t, s, func(fd int) {
				if _, err := unix.FcntlInt(uintptr(fd), how.command, how.value); err != nil {
					t.Fatal(err)
				}
			})
			if how.command == unix.F_SETFL { // Lend clears it too
				_ = control(s.front(), func(fd int) error { _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, how.value); return err })
			}
			if what, err := s.Mend(); !strings.Contains(what, "signals about it; ended") || err != nil {
				t.Errorf("%s: fcntl %d: Mend: %q, %v", s, how.command, what, err)
			}
			if what, err := s.Mend(); what != "" || err != nil {
				t.Errorf("%s: fcntl %d: second Mend: %q, %v", s, how.command, what, err)
			}
		}
	}
}

// A program that chooses among the sockets of a reuse_port group goes.
func TestReusePortProgram(t *testing.T) {
	ktest.Filters(t)
	s := open(t, fmt.Sprint("udp://127.0.0.1:", freePort(t)), func(o *Options) { o.ReusePort = true })
	asService(t, s, func(fd int) {
		program := []unix.SockFilter{{Code: 0x06, K: 99}} // BPF_RET | BPF_K: no such socket
		err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &unix.SockFprog{Len: 1, Filter: (*unix.SockFilter)(unsafe.Pointer(&program[0]))})
		if err != nil {
			t.Fatal(err)
		}
	})
	if what, err := s.Mend(); !strings.Contains(what, "a program that chooses") || err != nil {
		t.Errorf("Mend: %q, %v", what, err)
	}
	if what, err := s.Mend(); what != "" || err != nil {
		t.Errorf("second Mend: %q, %v", what, err)
	}
}

// A pipe that was made larger or smaller gets its size back.
func TestMendPipeSize(t *testing.T) {
	s := open(t, "fifo://"+t.TempDir()+"/f")
	before := s.state.pipe
	for _, size := range []int{4096, 2 * before} {
		asService(t, s, func(fd int) {
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, size); err != nil {
				t.Fatal(err)
			}
		})
		if _, err := s.Mend(); err != nil {
			t.Error(err)
		}
		asService(t, s, func(fd int) {
			if now, err := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0); now != before || err != nil {
				t.Errorf("%d bytes, %v, want %d", now, err, before)
			}
		})
	}
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkMend measures a healthy socket; on a busy machine the time of the
// processor says more than the clock.
func BenchmarkMend(b *testing.B) {
	for _, address := range addresses(b) {
		b.Run(strings.ReplaceAll(address, "/", ""), func(b *testing.B) {
			s := open(b, address)
			before := cpuTime(b)
			for b.Loop() {
				if what, err := s.Mend(); what != "" || err != nil {
					b.Fatal(what, err)
				}
			}
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}
