package listen

import (
	"bytes"
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

	"golang.org/x/sys/unix"

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
		openWith(t, fmt.Sprint("udp://127.0.0.1:", ktest.Port(t)), Relayed, r.means()),
		open(t, fmt.Sprint("tcp://127.0.0.1:", ktest.Port(t)), configured),
		open(t, fmt.Sprint("udp://127.0.0.1:", ktest.Port(t)), func(o *Options) {
			o.ReceiveBuffer, o.IPTOS, o.IPTOSSet, o.IPTTL, o.PassPacketInfo, o.Timestamping = 100000, 4, true, 1, true, "us"
		}),
		open(t, "unix://"+t.TempDir()+"/s", func(o *Options) { o.PassCredentials, o.PassSecurity, o.Timestamping = true, true, "us" }),
	}
	if s, err := Open(socketSpec(t, fmt.Sprint("tcp://127.0.0.1:", ktest.Port(t)), func(o *Options) { o.MPTCP = true }), Means{}); err == nil {
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
