package escape

import (
	"testing"

	"activator/test/escape/wire"
)

// carrying is the activator with handover = "proxy": the intruder has sockets of its
// own network, and what comes to the host's is carried to them.
type carrying struct{}

const carried = `[[socket]]
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

[service]
# %[4]s is nothing that can be carried.
exec = [%[5]q, "bind"]
handover = "proxy"
limits = { nproc = 64, as = "1G" }
`

func (carrying) start(t *testing.T, w *world, p wire.Probe) stage {
	t.Helper()
	return startActivator(t, w, p, "", carried, "")
}

// TestSandboxThatIsCarried: what it has leads nowhere. What a call on a socket of its
// own returns tells nothing: only what the host has seen of it counts. What it poisons
// is its own and ends with it.
func TestSandboxThatIsCarried(t *testing.T) {
	t.Parallel()
	for _, p := range chosen(t) {
		switch p.Group {
		case "TCP", "UDP", "unix", "ioctl", "io_uring", "clients":
		default:
			continue
		}
		if p.Witness == wire.WitnessKernel || p.Witness == wire.WitnessNext {
			continue
		}
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			if r := attack(t, carrying{}, p); r.Achieved {
				t.Errorf("GOT OUT: %s (%s): %s", p.Tries, p.Means, r.How)
			} else {
				t.Logf("stopped: %s", r.How)
			}
		})
	}
}

// TestCarriedServes: and it serves all the same.
func TestCarriedServes(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"tcp4 bulk", "tcp6", "udp4 burst", "udp6"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			s := carrying{}.start(t, w, wire.Probe{})
			if served, how := w.serve(s, kind, nil); !served {
				t.Errorf("not served: %s", how)
			}
		})
	}
}
