package listen

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockopt"
	"activator/internal/ktest"
	"activator/internal/spec"
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

// reading is what fd reads of an option; not ok: it has none, or it is of no use to it.
func reading(fd int, o *sockopt.Option) (value string, ok bool) {
	if protocol, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); o.Use&sockopt.Datagram != 0 && protocol != unix.IPPROTO_UDP {
		return "", false
	} else if protocol == unix.IPPROTO_MPTCP && o.Text == "SO_BUF_LOCK" {
		return "", false // it is shown, and cannot be set
	}
	return rawReading(fd, o.Level, o.Name)
}

// rawReading is an option as bytes, at most 64.
func rawReading(fd, level, name int) (value string, ok bool) {
	var buf [64]byte
	size := uint32(len(buf))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(&buf)), uintptr(unsafe.Pointer(&size)), 0)
	return string(buf[:min(int(size), len(buf))]), errno == 0 && int(size) <= len(buf)
}

// poison sets an option to something that reads other than before.
func poison(fd int, o *sockopt.Option) (changed bool) {
	before, ok := reading(fd, o)
	if !ok {
		return false
	}
	for _, v := range poisons() {
		if rawOption(fd, o.Level, o.Name, v) != nil {
			continue
		}
		if now, ok := reading(fd, o); ok && now != before {
			return true
		}
	}
	return false
}

// readings are all options that are restored, by name.
func readings(fd int) map[string]string {
	all := make(map[string]string)
	for i := range sockopt.Table {
		if o := &sockopt.Table[i]; o.Form != sockopt.Unrestored && o.Form != sockopt.Unreadable && o.Form != sockopt.Memory {
			if now, ok := reading(fd, o); ok {
				all[o.Text] = now
			}
		}
	}
	return all
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
func configured(o *spec.Options) {
	*o = spec.Options{KeepAlive: true, KeepAliveTime: 61 * time.Second, KeepAliveInterval: 7 * time.Second, KeepAliveProbes: 5,
		NoDelay: true, DeferAccept: 3 * time.Second, ReceiveBuffer: 65536, SendBuffer: 70000, Priority: 5, PrioritySet: true,
		IPTOS: 0x10, IPTOSSet: true, IPTTL: 9, FreeBind: true, ReusePort: true, Timestamping: "ns"}
}

// TestRestore lets a service change every option of every kind of socket and
// holds that the next one finds them all as they were.
func TestRestore(t *testing.T) {
	seen := make(map[string]string) // by option: what was done about it
	r := &relays{t: t}
	sockets := []*Socket{
		openWith(t, fmt.Sprint("udp://127.0.0.1:", ktest.Port(t)), spec.Relayed, r.means()),
		open(t, fmt.Sprint("tcp://127.0.0.1:", ktest.Port(t)), configured),
		open(t, fmt.Sprint("udp://127.0.0.1:", ktest.Port(t)), func(o *spec.Options) {
			o.ReceiveBuffer, o.IPTOS, o.IPTOSSet, o.IPTTL, o.PassPacketInfo, o.Timestamping = 100000, 4, true, 1, true, "us"
		}),
		open(t, "unix://"+t.TempDir()+"/s", func(o *spec.Options) { o.PassCredentials, o.PassSecurity, o.Timestamping = true, true, "us" }),
	}
	if s, err := openOne(socketSpec(t, fmt.Sprint("tcp://127.0.0.1:", ktest.Port(t)), func(o *spec.Options) { o.MPTCP = true }), Means{}); err == nil {
		defer s.Close()
		sockets = append(sockets, s)
	} else if !errors.Is(err, unix.EPROTONOSUPPORT) && !errors.Is(err, unix.ENOPROTOOPT) {
		t.Error(err)
	}
	for _, address := range addresses(t) {
		if s := open(t, address); s.Spec().Address.Network != spec.FIFO {
			sockets = append(sockets, s)
		}
	}
	readable := make(map[string]bool)
	for _, s := range sockets {
		for i := range sockopt.Table {
			o := &sockopt.Table[i]
			if o.Form == sockopt.Memory || o.Form == sockopt.Persistent || o.Form == sockopt.Unrestored {
				continue
			}
			if did := poisonAndMend(t, s, o, readable); did != "" {
				seen[o.Text] = did
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

func poisonAndMend(t *testing.T, s *Socket, o *sockopt.Option, readable map[string]bool) (did string) {
	t.Helper()
	changed := false
	var before map[string]string
	generation := s.Generation()
	asService(t, s, func(fd int) {
		before = readings(fd)
		if _, ok := reading(fd, o); ok {
			readable[o.Text] = true
		}
		changed = poison(fd, o)
	})
	what, err := s.Mend()
	if err != nil {
		t.Fatalf("%s: %s: Mend: %v", s, o.Text, err)
	}
	if !changed {
		if what != "" {
			t.Errorf("%s: %s: nothing reads changed, but %q", s, o.Text, what)
		}
		return ""
	}
	did = "set back"
	if s.Generation() != generation {
		did = "anew" // of MPTCP buffers only SO_BUF_LOCK is stuck, which they set
	}
	if named := strings.Contains(what, o.Text) || strings.Contains(what, cmp.Or(aliases[o.Text], o.Text)) || (did == "anew" && strings.Contains(what, "had set SO_BUF_LOCK")); !named || !strings.Contains(what, did) {
		t.Errorf("%s: %s: Mend says %q", s, o.Text, what)
	}
	asService(t, s, func(fd int) {
		if after := readings(fd); !maps.Equal(after, before) {
			t.Errorf("%s: %s: other options after Mend: %s", s, o.Text, differences(before, after))
		}
	})
	if what, err := s.Mend(); what != "" || err != nil {
		t.Errorf("%s: %s: second Mend: %q, %v", s, o.Text, what, err)
	}
	return did
}

// differences names the options in which two readings differ.
func differences(a, b map[string]string) string {
	var text []string
	for i := range sockopt.Table {
		if name := sockopt.Table[i].Text; a[name] != b[name] {
			text = append(text, fmt.Sprintf("%s %x, now %x", name, a[name], b[name]))
		}
	}
	return strings.Join(text, "; ")
}

// unrestored are options that change by themselves or say what is not of an
// option: see the comment of sockopt.Table.
var unrestored = map[[2]int]bool{
	{unix.SOL_SOCKET, unix.SO_ERROR}: true, {unix.SOL_SOCKET, unix.SO_INCOMING_CPU}: true, {unix.SOL_SOCKET, unix.SO_MEMINFO}: true,
	{unix.SOL_SOCKET, unix.SO_COOKIE}:      true, // of a socket bound anew
	{unix.IPPROTO_TCP, unix.TCP_TIMESTAMP}: true, {unix.IPPROTO_TCP, unix.TCP_INFO}: true, {unix.IPPROTO_TCP, unix.TCP_FASTOPEN_KEY}: true,
	{unix.SOL_SOCKET, unix.SO_PEERPIDFD}: true, // it makes a descriptor
	{unix.IPPROTO_TCP, unix.TCP_MAXSEG}:  true, // also of the last path; the limit of the service is in the same number
}

// TestEveryNumber sets every option number of every level to everything, known
// or not, and holds that Mend leaves nothing changed: this finds what the table
// lacks, also of a newer kernel.
func TestEveryNumber(t *testing.T) {
	for _, address := range addresses(t) {
		s := open(t, address)
		if s.Spec().Address.Network == spec.FIFO {
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
		for other := range before {
			if after, _ := rawReading(fd, other[0], other[1]); before[other] != after {
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
		for _, level := range []int{unix.SOL_SOCKET, unix.IPPROTO_IP, unix.IPPROTO_IPV6, unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			for name := range 256 {
				key := [2]int{level, name}
				if unrestored[key] {
					continue
				}
				if s.Spec().Address.IsStream() && slices.ContainsFunc(sockopt.Table, func(known sockopt.Option) bool {
					return known.Level == level && known.Name == name && known.Use&sockopt.Datagram != 0
				}) {
					continue
				}
				if now, ok := rawReading(fd, level, name); ok {
					all[key] = now
				}
			}
		}
	})
	return all
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
