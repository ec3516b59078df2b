package escape

import (
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"activator/internal/ktest"
	"activator/internal/listen"
	"activator/internal/sandbox"
	"activator/test/escape/wire"

	"golang.org/x/sys/unix"
)

// kernels are those that the suite runs as on, see oldkernel.
var kernels = []struct {
	name, lacks string
	groups      []string // of probes: those that what is missing is about
	passed      string   // probes of what is not promised there, which get out: a client passes a descriptor in
}{
	{"no Landlock, no BPF", noLandlock, append([]string{"files"}, socketGroups...), "rights-udp rights-connection rights-root rights-pair-root refill-fifo-reopen"},
	{"5.15", "5.15", append([]string{"files"}, socketGroups...), "rights-udp rights-connection"},
	{"6.1", "6.1", append([]string{"files"}, socketGroups...), "rights-udp rights-connection"},
	{"6.8", "6.8", []string{"TCP", "unix", "clients"}, "rights-udp rights-connection"},
	{"6.12", "6.12", []string{"unix", "clients"}, "rights-udp rights-connection"},
}

// passedHere are the probes of what is not promised on the running kernel.
var passedHere = sync.OnceValue(func() []string {
	switch {
	case listen.CanRefuseRights():
		return nil
	case sandbox.RunningKernel().Landlock == 0:
		return strings.Fields("rights-udp rights-connection rights-root rights-pair-root refill-fifo-reopen")
	}
	return strings.Fields("rights-udp rights-connection")
})

// hold fails where a probe got out of the sandbox. One of what is not promised here is
// said to be open, and has to be.
func hold(t *testing.T, p wire.Probe, r wire.Result) {
	t.Helper()
	open := slices.Contains(passedHere(), p.Name)
	switch {
	case r.Achieved && open:
		t.Logf("open, not promised here: %s: %s", p.Name, r.How)
	case open:
		t.Errorf("stopped, though docs/security.md says that it is not: %s", r.How)
	case r.Achieved:
		t.Errorf("GOT OUT: %s (%s): %s", p.Tries, p.Means, r.How)
	default:
		t.Logf("stopped: %s", r.How)
	}
}

// socketGroups are the groups of probes about what is inherited, accepted or passed in.
var socketGroups = []string{"TCP", "UDP", "unix", "ioctl", "io_uring", "clients", "poison", "ports", "output"}

// TestOldKernels: the default sandbox, seal = "required", stops every probe with what
// older kernels have.
func TestOldKernels(t *testing.T) {
	t.Parallel()
	for _, k := range kernels {
		t.Run(k.name, func(t *testing.T) {
			ktest.OldKernel(t, program(t, "oldkernel"), k.lacks)
			t.Parallel()
			asOn(t, sandboxed{kernel: k.lacks}, k.passed, k.groups)
		})
	}
}

// TestWithoutLandlock: nor does what the configuration opens loosen anything for what was
// inherited, where the supervisor is alone.
func TestWithoutLandlock(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]column{
		"connect any": sandboxed{kernel: noLandlock, more: connectAny}, "connect unix": sandboxed{kernel: noLandlock, more: connectUnix},
		"bind": binding{noLandlock},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asOn(t, c, kernels[0].passed, []string{"TCP", "UDP", "unix", "clients"})
		})
	}
}

// TestMPTCP: nor does it where the inherited listeners are of a protocol that no Landlock
// sees: then the supervisor is alone on every kernel.
func TestMPTCP(t *testing.T) {
	t.Parallel()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
	if err != nil {
		t.Skipf("a kernel without MPTCP: %v", err)
	}
	unix.Close(fd)
	for name, c := range map[string]sandboxed{"default": {}, "connect any": {more: connectAny}, "connect unix": {more: connectUnix}} {
		c.socket = "mptcp = true\n"
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asOn(t, c, "", []string{"TCP", "ports"})
		})
	}
}

// asOn runs half of the probes of the groups; those of passed get out.
func asOn(t *testing.T, c column, passed string, groups []string) {
	suits := func(p wire.Probe) bool {
		b, binds := c.(binding)
		return slices.Contains(groups, p.Group) && (!binds || b.suits(p))
	}
	for _, p := range half(t, suits) {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			r := attack(t, c, p)
			switch open := slices.Contains(strings.Fields(passed), p.Name); {
			case r.Achieved && !open:
				t.Errorf("GOT OUT: %s (%s): %s", p.Tries, p.Means, r.How)
			case !r.Achieved && open:
				t.Errorf("stopped, though docs/security.md says that it is not: %s", r.How)
			default:
				t.Logf("%v: %s", r.Achieved, r.How)
			}
		})
	}
}

// restrictions are what keeps what is promised of sockets, one by one, on a kernel where
// nothing else does. Taken away, its probes get out: docs/security.md, "What keeps which
// promise". A restriction of ours is taken away by oldkernel, which pretends
// to load it, or by the configuration.
var restrictions = []struct {
	name, probes string
	with, gone   sandboxed
	root         bool // as root alone
}{
	{"filter", "tcp-listener-dissolve tcp-listener-dissolve-v6 tcp-listener-shutdown tcp-accepted-dissolve tcp-accepted-rebind tcp-accepted-listen " +
		"tcp-fastopen-sendto tcp-fastopen-sendmsg tcp-fastopen-sendmmsg tcp-fastopen-connect ioctl-interfaces rights-tcp",
		sandboxed{kernel: "6.8,bpf,pretend-landlock"}, sandboxed{kernel: neither}, false},
	{"Landlock: TCP", "tcp-listener-dissolve tcp-accepted-rebind rights-tcp rights-listen",
		sandboxed{kernel: "6.8,bpf,pretend-filter"}, sandboxed{kernel: neither}, false},
	{"BPF: connect", "tcp-listener-dissolve tcp-listener-dissolve-v6 tcp-listener-shutdown tcp-accepted-dissolve tcp-accepted-dissolve-v6 " +
		"tcp-fastopen-sendto tcp-fastopen-sendmsg tcp-fastopen-sendmmsg tcp-fastopen-accepted",
		sandboxed{kernel: "6.8,pretend-filter,pretend-landlock"}, sandboxed{kernel: neither}, true},
	{"supervisor: bind", "rights-listen",
		sandboxed{kernel: noLandlock}, sandboxed{kernel: neither}, false},
	{"Landlock: files", "rights-root rights-pair-root",
		sandboxed{kernel: "5.15"}, sandboxed{kernel: "5.15,pretend-landlock"}, false},
	{"Landlock: files, SO_PASSRIGHTS", "rights-pair-root",
		sandboxed{}, sandboxed{kernel: "landlock=7,pretend-landlock"}, false},
	{"Landlock: scope", "unixgram-abstract unixgram-abstract-sendmmsg",
		sandboxed{kernel: "6.12", socket: credentials}, sandboxed{kernel: "6.12,pretend-landlock", socket: credentials}, false},
	{"receives only", "unixgram-abstract unixgram-abstract-sendmmsg",
		sandboxed{kernel: "6.8", socket: credentials}, sandboxed{kernel: "6.8,pretend-shutdown", socket: credentials}, false},
	{"relay: unix datagrams", "unixgram-abstract unixgram-abstract-sendmmsg",
		sandboxed{kernel: noLandlock}, sandboxed{kernel: noLandlock, more: unsealed}, false},
	{"relay: UDP", "udp-sendto udp-sendmsg udp-sendmmsg udp-sendto-v6 udp-sendto-mapped",
		sandboxed{kernel: noLandlock}, sandboxed{kernel: noLandlock, more: unsealed}, false},
	{"relay: a queue of its own", "refill-udp refill-udp-forged refill-udp-forged-v6 refill-unixgram",
		sandboxed{kernel: noLandlock}, sandboxed{kernel: noLandlock, more: unsealed}, false},
	{"Landlock: files, a FIFO", "refill-fifo-reopen",
		sandboxed{kernel: "5.15"}, sandboxed{kernel: "5.15,pretend-landlock"}, false},
	{"Landlock: TCP, behind a supervisor", "tcp-listener-swap tcp-accepted-swap",
		sandboxed{kernel: "bpf", more: connectAny}, sandboxed{kernel: "landlock=7,bpf,pretend-landlock", more: connectAny}, false},
	{"BPF: connect, behind a supervisor", "tcp-listener-swap tcp-accepted-swap",
		sandboxed{kernel: "landlock=7,pretend-landlock", more: connectAny}, sandboxed{kernel: "landlock=7,bpf,pretend-landlock", more: connectAny}, true},
	{"supervisor that passes nothing on", "tcp-listener-swap tcp-accepted-swap",
		sandboxed{kernel: noLandlock, more: connectAny}, sandboxed{kernel: "landlock=7,bpf,pretend-landlock", more: connectAny}, false},
	{"filter: MPTCP", "tcp-listener-dissolve tcp-listener-dissolve-v6 tcp-accepted-dissolve",
		sandboxed{socket: mptcp}, sandboxed{socket: mptcp, more: connectAny + "seal = \"off\"\n"}, false},
	{"supervisor alone: MPTCP", "tcp-listener-swap tcp-accepted-swap",
		sandboxed{socket: mptcp, more: connectAny}, sandboxed{socket: mptcp, more: connectAny + "seal = \"off\"\n"}, false},
	{"supervisor: options", queued,
		sandboxed{kernel: "bpf"}, sandboxed{kernel: "bpf", more: unsealed}, false},
	{"BPF: options", queued,
		sandboxed{}, sandboxed{more: unsealed}, true},
	{"mending", "poison-nonblock",
		sandboxed{}, sandboxed{kernel: "pretend-blocking"}, false},
	{"root", "unixgram-path",
		sandboxed{more: "user = \"root\"\n"}, sandboxed{more: "user = \"root\"\n[sandbox]\nread_only = [\"DIR\"]\n"}, false},
	{"BPF", "udp-sendto udp-sendmsg udp-sendmmsg udp-sendto-v6 udp-sendto-mapped udp-link udp-link-pktinfo udp-link-v4 udp-link-loopback",
		sandboxed{}, sandboxed{more: unsealed}, true},
}

const (
	neither     = "6.8,bpf,pretend-filter,pretend-landlock"
	noLandlock  = "landlock=0,passrights,bpf,killable,threads,peerpidfd"
	mptcp       = "mptcp = true\n"
	queued      = "queue-linger queue-user-timeout queue-receive-timeout queue-send-buffer queue-receive-buffer"
	credentials = "pass_credentials = true\n"
	connectUnix = "[sandbox]\nconnect = \"unix\"\n"
	connectAny  = "[sandbox]\nconnect = \"any\"\n"
	unsealed    = "[sandbox]\nseal = \"off\"\n"
)

// TestRestrictions: no promise is kept by chance.
func TestRestrictions(t *testing.T) {
	t.Parallel()
	all := allProbes(t)
	for _, r := range restrictions {
		t.Run(r.name, func(t *testing.T) {
			if r.root && os.Getuid() != 0 {
				t.Skip("BPF is root's")
			}
			ktest.OldKernel(t, program(t, "oldkernel"), r.with.kernel)
			ktest.OldKernel(t, program(t, "oldkernel"), r.gone.kernel)
			for name := range strings.FieldsSeq(r.probes) {
				at := slices.IndexFunc(all, func(p wire.Probe) bool { return p.Name == name })
				if at < 0 {
					t.Fatalf("no probe %s", name)
				}
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					if with := attack(t, r.with, all[at]); with.Achieved {
						t.Errorf("GOT OUT: %s", with.How)
					}
					if gone := attack(t, r.gone, all[at]); !gone.Achieved && excuse(t, gone) == "" {
						t.Errorf("stopped without it: %s: the restriction does nothing, or another one is there", gone.How)
					}
				})
			}
		})
	}
}
