package escape

import (
	"testing"

	"activator/test/escape/wire"
)

// binding is the activator with handover = "bind": the intruder binds sockets of
// its own network, and gets the host's in answer.
type binding struct{ kernel string } // as in sandboxed

const bound = `[[socket]]
listen = ["tcp://127.0.0.1:%[1]s"]
target = "tcp://127.0.0.1:81"
[[socket]]
listen = ["udp://127.0.0.1:%[1]s"]
target = "udp://127.0.0.1:81"
[[socket]]
listen = ["tcp://[::]:%[2]s"]
target = "tcp://:82"
[[socket]]
listen = ["udp://[::]:%[2]s"]
target = "udp://:82"
[[socket]]
listen = ["unix://%[3]s"]
target = "unix:///tmp/s"
[[socket]]
listen = ["unixgram://%[4]s"]
target = "unixgram:///tmp/g"

[service]
exec = [%[5]q, "bind"]
handover = "bind"
limits = { nproc = 64, as = "1G" }
`

func (b binding) start(t *testing.T, w *world, p wire.Probe) stage {
	t.Helper()
	return startActivator(t, w, p, b.kernel, bound, "")
}

// suits reports whether a probe needs no sockets that a program cannot bind, or that the intruder does not.
func (binding) suits(p wire.Probe) bool { return !new(world).refills(p) }

// TestSandboxThatBinds: the seal holds for what was bound as for what was inherited.
func TestSandboxThatBinds(t *testing.T) {
	t.Parallel()
	for _, p := range chosen(t) {
		switch p.Group {
		case "TCP", "UDP", "unix", "ioctl", "io_uring", "clients", "poison":
		default:
			continue
		}
		if !(binding{}).suits(p) {
			continue
		}
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			hold(t, p, attack(t, binding{}, p))
		})
	}
}

// TestBoundServes: and it serves all the same.
func TestBoundServes(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"tcp4 bulk", "tcp4 cut", "tcp4 backlog", "tcp6", "udp4 burst", "udp6", "unixgram"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			s := binding{}.start(t, w, wire.Probe{})
			if served, how := w.serve(s, kind, nil); !served {
				t.Errorf("not served: %s", how)
			}
		})
	}
}
