package listen

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/proc"
	"activator/internal/kernel/sockopt"
	"activator/internal/ktest"
	"activator/internal/spec"
)

// inNetwork runs f on a thread in a network namespace of its own with lo up. The
// thread is thrown away. An ordinary user runs the whole test again as root of a
// user namespace: a process with threads cannot enter one.
func inNetwork(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if os.Geteuid() != 0 {
		again(t)
		return
	}
	var err error
	ktest.OnThread(func() {
		err = unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = loopbackUp()
		}
		if err == nil {
			f(t)
		}
	})
	if err != nil {
		ktest.Skip(t, "unshare(CLONE_NEWNET): %v", err)
	}
}

func again(t *testing.T) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
		ktest.Skip(t, "no user namespaces: %v", err)
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// readBack is one option, where the kernel shows it and what it must say.
type readBack struct {
	network     string
	set         func(*spec.Options)
	level, name int
	want        int
	root        bool // an ordinary user gets EPERM, and the error says what is needed
}

const (
	sol = unix.SOL_SOCKET
	ip4 = unix.IPPROTO_IP
	ip6 = unix.IPPROTO_IPV6
	tcp = unix.IPPROTO_TCP
)

var optionTable = map[string][]readBack{
	"reuse_address":       {{"tcp", nil, sol, unix.SO_REUSEADDR, 1, false}, {"udp", nil, sol, unix.SO_REUSEADDR, 0, false}},
	"reuse_port":          {{"tcp", func(o *spec.Options) { o.ReusePort = true }, sol, unix.SO_REUSEPORT, 1, false}},
	"free_bind":           {{"tcp", func(o *spec.Options) { o.FreeBind = true }, ip4, unix.IP_FREEBIND, 1, false}, {"tcp6", func(o *spec.Options) { o.FreeBind = true }, ip6, unix.IPV6_FREEBIND, 1, false}},
	"transparent":         {{"udp", func(o *spec.Options) { o.Transparent = true }, ip4, unix.IP_TRANSPARENT, 1, true}, {"tcp6", func(o *spec.Options) { o.Transparent = true }, ip6, unix.IPV6_TRANSPARENT, 1, true}},
	"no_delay":            {{"tcp", func(o *spec.Options) { o.NoDelay = true }, tcp, unix.TCP_NODELAY, 1, false}},
	"keep_alive":          {{"tcp", func(o *spec.Options) { o.KeepAlive = true }, sol, unix.SO_KEEPALIVE, 1, false}},
	"keep_alive_time":     {{"tcp", func(o *spec.Options) { o.KeepAliveTime = 61 * time.Second }, tcp, unix.TCP_KEEPIDLE, 61, false}},
	"keep_alive_interval": {{"tcp", func(o *spec.Options) { o.KeepAliveInterval = 7 * time.Second }, tcp, unix.TCP_KEEPINTVL, 7, false}},
	"keep_alive_probes":   {{"tcp", func(o *spec.Options) { o.KeepAliveProbes = 5 }, tcp, unix.TCP_KEEPCNT, 5, false}},
	"defer_accept":        {{"tcp", func(o *spec.Options) { o.DeferAccept = time.Second }, tcp, unix.TCP_DEFER_ACCEPT, 1, false}},
	"mptcp":               {{"tcp", func(o *spec.Options) { o.MPTCP = true }, sol, unix.SO_PROTOCOL, unix.IPPROTO_MPTCP, false}, {"tcp", nil, sol, unix.SO_PROTOCOL, unix.IPPROTO_TCP, false}},
	"receive_buffer":      {{"udp", func(o *spec.Options) { o.ReceiveBuffer = 65536 }, sol, unix.SO_RCVBUF, 2 * 65536, false}, {"unix", func(o *spec.Options) { o.ReceiveBuffer = 65536 }, sol, unix.SO_RCVBUF, 2 * 65536, false}},
	"send_buffer":         {{"udp", func(o *spec.Options) { o.SendBuffer = 65536 }, sol, unix.SO_SNDBUF, 2 * 65536, false}},
	"priority":            {{"tcp", func(o *spec.Options) { o.Priority, o.PrioritySet = 6, true }, sol, unix.SO_PRIORITY, 6, false}, {"tcp", func(o *spec.Options) { o.Priority, o.PrioritySet = 7, true }, sol, unix.SO_PRIORITY, 7, true}},
	"priority and ip_tos": {{"tcp", func(o *spec.Options) { o.Priority, o.PrioritySet, o.IPTOS, o.IPTOSSet = 3, true, 0x10, true }, sol, unix.SO_PRIORITY, 3, false}, {"dual", func(o *spec.Options) { o.Priority, o.PrioritySet, o.IPTOS, o.IPTOSSet = 3, true, 0x10, true }, sol, unix.SO_PRIORITY, 3, false}},
	"mark":                {{"tcp", func(o *spec.Options) { o.Mark = 0xfffffffe }, sol, unix.SO_MARK, -2, true}},
	"ip_tos":              {{"tcp", func(o *spec.Options) { o.IPTOS, o.IPTOSSet = 0x10, true }, ip4, unix.IP_TOS, 0x10, false}, {"udp6", func(o *spec.Options) { o.IPTOS, o.IPTOSSet = 0x10, true }, ip6, unix.IPV6_TCLASS, 0x10, false}, {"dual", func(o *spec.Options) { o.IPTOS, o.IPTOSSet = 0x10, true }, ip4, unix.IP_TOS, 0x10, false}},
	"ip_ttl":              {{"tcp", func(o *spec.Options) { o.IPTTL = 9 }, ip4, unix.IP_TTL, 9, false}, {"tcp6", func(o *spec.Options) { o.IPTTL = 9 }, ip6, unix.IPV6_UNICAST_HOPS, 9, false}, {"dual", func(o *spec.Options) { o.IPTTL = 9 }, ip4, unix.IP_TTL, 9, false}},
	"broadcast":           {{"udp", func(o *spec.Options) { o.Broadcast = true }, sol, unix.SO_BROADCAST, 1, false}},
	"timestamping":        {{"udp", func(o *spec.Options) { o.Timestamping = "us" }, sol, unix.SO_TIMESTAMP, 1, false}, {"udp", func(o *spec.Options) { o.Timestamping = "ns" }, sol, unix.SO_TIMESTAMPNS, 1, false}, {"udp", func(o *spec.Options) { o.Timestamping = "off" }, sol, unix.SO_TIMESTAMP, 0, false}},
	"pass_credentials":    {{"unix", func(o *spec.Options) { o.PassCredentials = true }, sol, unix.SO_PASSCRED, 1, false}},
	"pass_security":       {{"unix", func(o *spec.Options) { o.PassSecurity = true }, sol, unix.SO_PASSSEC, 1, false}},
	"pass_packet_info":    {{"udp", func(o *spec.Options) { o.PassPacketInfo = true }, ip4, unix.IP_PKTINFO, 1, false}, {"udp6", func(o *spec.Options) { o.PassPacketInfo = true }, ip6, unix.IPV6_RECVPKTINFO, 1, false}},
	"pass_rights":         {{"unix", func(o *spec.Options) { o.RefuseRights = true }, sol, unix.SO_PASSRIGHTS, 0, false}},
	"bind_ipv6_only": {
		{"dual", nil, ip6, unix.IPV6_V6ONLY, 0, false},
		{"dual", func(o *spec.Options) { o.BindIPv6Only = "both" }, ip6, unix.IPV6_V6ONLY, 0, false},
		{"dual", func(o *spec.Options) { o.BindIPv6Only = "ipv6-only" }, ip6, unix.IPV6_V6ONLY, 1, false},
		{"dual", func(o *spec.Options) { o.BindIPv6Only = "default" }, ip6, unix.IPV6_V6ONLY, 0, false},
		{"tcp6", nil, ip6, unix.IPV6_V6ONLY, 1, false},
	},
}

// TestOptions sets every option of the reference and asks the kernel for it.
func TestOptions(t *testing.T) {
	for key, cases := range optionTable {
		for i, tt := range cases {
			t.Run(fmt.Sprintf("%s/%d", key, i), func(t *testing.T) { checkOption(t, key, tt) })
		}
	}
}

// address is a free one of the network.
func (tt readBack) address(t *testing.T) string {
	return fmt.Sprintf(map[string]string{
		"tcp": "tcp://127.0.0.1:%d", "udp": "udp://127.0.0.1:%d", "tcp6": "tcp6://:%d", "udp6": "udp6://:%d",
		"dual": "tcp://:%d", "unix": "unixgram://@activator-option-%d",
	}[tt.network], ktest.Port(t))
}

func checkOption(t *testing.T, key string, tt readBack) {
	s := socketSpec(t, tt.address(t))
	if tt.set != nil {
		tt.set(&s.Options)
	}
	socket, err := openOne(s, Means{})
	switch {
	case tt.root && os.Geteuid() != 0:
		if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
			t.Fatalf("as an ordinary user: %v", err)
		}
		return
	case errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.ENOPROTOOPT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPROTONOSUPPORT):
		ktest.Skip(t, "%v", err)
	case err != nil:
		t.Fatal(err)
	}
	defer socket.Close()
	asService(t, socket, func(fd int) {
		got, err := unix.GetsockoptInt(fd, tt.level, tt.name)
		if tt.name == unix.IPV6_V6ONLY && s.Options.BindIPv6Only == "default" {
			line := proc.ReadSysctl("net.ipv6.bindv6only")
			tt.want = int(line[0] - '0')
		}
		if err != nil || got != tt.want {
			t.Errorf("kernel says %d, %v; want %d", got, err, tt.want)
		}
	})
}

// TestOptionsComplete fails when an option has no row above.
func TestOptionsComplete(t *testing.T) {
	for _, o := range sockopt.Table {
		if o.Key == nil {
			continue
		}
		switch o.Key.Name {
		case "", "bind_to_device", "tcp_congestion": // the former is "reuse_address", these have tests of their own below
		default:
			if optionTable[o.Key.Name] == nil {
				t.Errorf("%s is not tested", o.Key.Name)
			}
		}
	}
}

func TestCongestion(t *testing.T) {
	address := fmt.Sprintf("tcp://127.0.0.1:%d", ktest.Port(t))
	s := open(t, address, func(o *spec.Options) { o.TCPCongestion = "reno" })
	asService(t, s, func(fd int) {
		if got, err := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION); got != "reno" {
			t.Errorf("%q, %v", got, err)
		}
	})
	_, err := openOne(socketSpec(t, fmt.Sprintf("tcp://127.0.0.1:%d", ktest.Port(t)), func(o *spec.Options) { o.TCPCongestion = "nonsense" }), Means{})
	if err == nil || !strings.Contains(err.Error(), `tcp_congestion: setsockopt: no such file or directory: this kernel has no "nonsense"`) {
		t.Errorf("%v", err)
	}
}

func TestBacklog(t *testing.T) {
	limit := proc.ReadSysctl("net.core.somaxconn")
	for _, tt := range []struct {
		backlog int
		want    string
	}{{0, limit}, {3, "3"}} {
		s := open(t, fmt.Sprintf("tcp://127.0.0.1:%d", ktest.Port(t)), func(o *spec.Options) { o.Backlog = tt.backlog })
		check := func(when string) {
			asService(t, s, func(fd int) {
				// Of a listener this is the limit of its queue: tcp_get_info().
				info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
				if err != nil || fmt.Sprint(info.Sacked) != tt.want {
					t.Errorf("%s: backlog %d, %v; want %s", when, info.Sacked, err, tt.want)
				}
			})
		}
		check("opened")
		asService(t, s, func(fd int) {
			if err := unix.Listen(fd, 1); err != nil {
				t.Fatal(err)
			}
		})
		if what, err := s.Mend(); what != "" || err != nil {
			t.Errorf("Mend: %q, %v", what, err)
		}
		check("mended")
	}
}

func TestPipeSize(t *testing.T) {
	s := open(t, "fifo://"+t.TempDir()+"/f", func(o *spec.Options) { o.PipeSize = 8192 })
	size := func() (n int) {
		asService(t, s, func(fd int) { n, _ = unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0) })
		return n
	}
	if n := size(); n != 8192 {
		t.Errorf("pipe of %d bytes", n)
	}
	asService(t, s, func(fd int) { unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, 4096) })
	if _, err := s.Mend(); err != nil || size() != 8192 {
		t.Errorf("mended: pipe of %d bytes, %v", size(), err)
	}
	if os.Geteuid() != 0 {
		_, err := openOne(socketSpec(t, "fifo://"+t.TempDir()+"/g", func(o *spec.Options) { o.PipeSize = 1 << 30 }), Means{})
		if err == nil || !strings.Contains(err.Error(), "pipe_size") {
			t.Errorf("1 GiB as an ordinary user: %v", err)
		}
	}
}

// TestOptionErrors holds that an error names the option and the cure.
func TestOptionErrors(t *testing.T) {
	port := ktest.Port(t)
	for _, tt := range []struct {
		address string
		set     func(*spec.Options)
		says    string
	}{
		{"tcp://127.0.0.1:%d", func(o *spec.Options) { o.BindToDevice = "nonesuch0" }, `bind_to_device: setsockopt: no such device: there is no interface "nonesuch0"`},
		{"tcp6://:%d", func(o *spec.Options) { o.BindIPv6Only = "both" }, `bind_ipv6_only: "both" contradicts tcp6://`},
		{"tcp6://:%d", func(o *spec.Options) { o.BindIPv6Only = "yes" }, `bind_ipv6_only: "yes" is none of`},
		{"udp://127.0.0.1:%d", func(o *spec.Options) { o.Timestamping = "ms" }, `timestamping: "ms" is none of`},
		{"unix://@activator-%d", func(o *spec.Options) { o.NoDelay = true }, "no_delay: setsockopt: operation not supported: this kind of socket has no such option"},
		{"unix://@activator-%d", func(o *spec.Options) { o.IPTTL = 3 }, "ip_ttl: setsockopt: operation not supported"},
		{"udp://127.0.0.1:%d", func(o *spec.Options) { o.KeepAliveProbes = 3 }, "keep_alive_probes: setsockopt: "},
		{"tcp://127.0.0.1:%d", func(o *spec.Options) { o.IPTTL = 256 }, "ip_ttl: setsockopt: invalid argument"},
	} {
		s, err := openOne(socketSpec(t, fmt.Sprintf(tt.address, port), tt.set), Means{})
		if err == nil {
			s.Close()
			t.Errorf("%s: opened", tt.says)
			continue
		}
		if !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%v\ndoes not say %s", err, tt.says)
		}
	}
}

// TestBindToDevice serves the clients of one interface only.
func TestBindToDevice(t *testing.T) {
	inNetwork(t, func(t *testing.T) {
		s, err := openOne(socketSpec(t, "tcp4://:80", func(o *spec.Options) { o.BindToDevice = "lo" }), Means{})
		if err != nil {
			t.Error(err)
			return
		}
		defer s.Close()
		file, err := s.Lend()
		if err != nil {
			t.Error(err)
			return
		}
		if name, err := unix.GetsockoptString(int(file.Fd()), sol, unix.SO_BINDTODEVICE); name != "lo" || err != nil {
			t.Errorf("bound to %q, %v", name, err)
		}
		if what, err := s.Mend(); what != "" || err != nil {
			t.Errorf("Mend: %q, %v", what, err)
		}
	})
}

// TestScoped binds a link-local address, by the name of its interface and by its
// number.
func TestScoped(t *testing.T) {
	inNetwork(t, func(t *testing.T) {
		for _, address := range []string{"tcp://[fe80::1%lo]:80", "udp://[fe80::1%1]:80"} {
			s, err := openOne(socketSpec(t, address, func(o *spec.Options) { o.FreeBind = true }), Means{})
			if err != nil {
				t.Error(err)
				continue
			}
			if what, err := s.Mend(); what != "" || err != nil {
				t.Errorf("%s: Mend: %q, %v", s, what, err)
			}
			file, err := s.Lend()
			if err != nil {
				t.Error(err)
			} else if sa, err := unix.Getsockname(int(file.Fd())); err != nil || sa.(*unix.SockaddrInet6).ZoneId != 1 {
				t.Errorf("%s: %+v, %v", s, sa, err)
			}
			s.Close()
		}
		for address, says := range map[string]string{
			"tcp://[fe80::1%none0]:80": `interface "none0": no such device`,
			"tcp://[fe80::1]:80":       `a link-local address needs its interface, as in "[fe80::1%eth0]"`,
			"tcp://10.9.8.7:80":        "no interface has this address; free_bind = true",
			"udp://[2001:db8::1]:80":   "no interface has this address; free_bind = true",
		} {
			s, err := openOne(socketSpec(t, address), Means{})
			if err == nil {
				s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%v\ndoes not say %s", err, says)
			}
		}
		s, err := openOne(socketSpec(t, "tcp://10.9.8.7:80", func(o *spec.Options) { o.FreeBind = true }), Means{})
		if err != nil {
			t.Error(err)
			return
		}
		s.Close()
	})
}
