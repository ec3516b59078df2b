// Package escape is the escape suite: an intruder that holds the sockets of a
// service tries every way out, without isolation, where each has to work, and in
// the default sandbox, where none may. The same is done to peers, for the table
// of docs/security.md.
package escape

import (
	"encoding/json"
	"flag"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"activator/internal/ktest"
	"activator/test/escape/wire"
)

// waitTimeout bounds every wait for what has to happen. It is never what a test
// measures.
const waitTimeout = 2 * time.Minute

var (
	write = flag.Bool("write", false, "write what is measured to results.tsv and docs/security.md")
	names = flag.String("probes", "", "only these probes, separated by commas")
)

func TestMain(m *testing.M) {
	ktest.Parallel(4)
	ktest.Main(m)
}

// program is the path of a built program: in $ACTIVATOR_BIN, or ../../bin.
func program(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("ACTIVATOR_BIN")
	if dir == "" {
		dir = filepath.Join("..", "..", "bin")
	}
	path, err := filepath.Abs(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: build it first: make", err)
	}
	return path
}

// allProbes asks the intruder for its probes.
func allProbes(t *testing.T) []wire.Probe {
	t.Helper()
	text, err := exec.Command(program(t, "intruder"), "list").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []wire.Probe
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	if len(all) < 40 {
		t.Fatalf("only %d probes", len(all))
	}
	return all
}

// chosen are the probes of -probes, or all.
func chosen(t *testing.T) []wire.Probe {
	t.Helper()
	all := allProbes(t)
	if *names == "" {
		return all
	}
	var some []wire.Probe
	for _, name := range strings.Split(*names, ",") {
		found := false
		for _, p := range all {
			if p.Name == name {
				some, found = append(some, p), true
			}
		}
		if !found {
			t.Fatalf("no probe %s", name)
		}
	}
	return some
}

// TestWithoutIsolation: a probe that achieves nothing here proves nothing
// elsewhere.
func TestWithoutIsolation(t *testing.T) {
	measure(t, "none", bare{}, chosen(t), func(t *testing.T, p wire.Probe, r wire.Result) {
		if r.Achieved {
			return
		}
		why := excuse(t, r)
		if why == "" {
			t.Errorf("stopped without isolation: %s: the probe proves nothing", r.How)
			return
		}
		t.Logf("cannot work here: %s: %s", r.How, why)
	})
}

// TestSandbox: the default sandbox stops every probe.
func TestSandbox(t *testing.T) {
	t.Parallel()
	measure(t, "activator", sandboxed{}, chosen(t), hold)
}

// TestSandboxThatConnects: what a service may connect to itself loosens nothing
// for what it inherited.
func TestSandboxThatConnects(t *testing.T) {
	t.Parallel()
	for _, connect := range []string{"unix", "any"} {
		t.Run(connect, func(t *testing.T) {
			t.Parallel()
			c := sandboxed{more: "[sandbox]\nconnect = \"" + connect + "\"\n"}
			for _, p := range half(t, aboutSockets) {
				t.Run(p.Name, func(t *testing.T) {
					t.Parallel()
					hold(t, p, attack(t, c, p))
				})
			}
		})
	}
}

// TestSandboxServes: what stops the probes is not that nothing works.
func TestSandboxServes(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"tcp4 bulk", "tcp4 cut", "tcp4 backlog", "tcp6", "udp4 burst", "udp6", "unixgram"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			s := sandboxed{}.start(t, w, wire.Probe{})
			if served, how := w.serve(s, kind, nil); !served {
				t.Errorf("not served: %s", how)
			}
		})
	}
}

// TestBubblewrap and TestPodman measure what peers stop; what they let through is
// no failure of ours.
func TestBubblewrap(t *testing.T) { peer(t, "bwrap", bubblewrap{}) }

func TestPodman(t *testing.T) {
	ktest.Filters(t)
	if os.Getuid() != 0 {
		t.Skip("measured as root only: as an ordinary user podman leaves a process of its own behind")
	}
	makeImage(t)
	peer(t, "podman", podman{})
}

// TestContainer: in a container of Podman's the sockets that an intruder inherits are sealed as
// in our own sandbox. The rest is Podman's, and measured.
func TestContainer(t *testing.T) {
	ktest.Filters(t)
	if _, err := exec.LookPath("podman"); err != nil {
		ktest.Skip(t, "%v: install it", err)
	}
	makeImage(t)
	probes, others := split(chosen(t), aboutSockets)
	measure(t, "activator-podman", inContainer{}, append(sampled(probes, 60), sampled(others, 10)...), func(t *testing.T, p wire.Probe, r wire.Result) {
		holdSockets(t, p, r)
	})
}

// TestContainerThatConnects: what its programs may connect among themselves loosens nothing
// for what they inherited.
func TestContainerThatConnects(t *testing.T) {
	ktest.Filters(t)
	if _, err := exec.LookPath("podman"); err != nil {
		ktest.Skip(t, "%v: install it", err)
	}
	makeImage(t)
	c := inContainer{container: "internet_sockets = true\n", more: "[sandbox]\nconnect = \"any\"\n"}
	probes, _ := split(chosen(t), aboutSockets)
	for _, p := range sampled(probes, 20) {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			holdSockets(t, p, attack(t, c, p))
		})
	}
}

// holdSockets is hold for what is about sockets, but for two: a folder of the host's
// that a colluding client passes in, over a socket that is the container's own, and its FIFO that it opens
// again. In our sandbox Landlock's rules for files keep both; under these an engine cannot mount (EPERM).
func holdSockets(t *testing.T, p wire.Probe, r wire.Result) {
	if aboutSockets(p) && p.Name != "rights-pair-root" && p.Name != "refill-fifo-reopen" {
		hold(t, p, r)
		return
	}
	t.Logf("achieved: %v: %s", r.Achieved, r.How)
}

// aboutSockets: it tries a way out over a socket.
func aboutSockets(p wire.Probe) bool {
	switch p.Group {
	case "TCP", "UDP", "unix", "ioctl", "io_uring", "clients", "poison", "ports", "output":
		return true
	}
	return false
}

func peer(t *testing.T, name string, c column) {
	if _, err := exec.LookPath(name); err != nil {
		ktest.Skip(t, "%v: install it", err)
	}
	measure(t, name, c, sampled(chosen(t), 15), func(t *testing.T, p wire.Probe, r wire.Result) {
		t.Logf("achieved: %v: %s", r.Achieved, r.How)
	})
}

// sampled are some of the probes, others at each run; all of them with -write, as by make escape. What a peer stops is no
// promise of ours, and in a variant of the sandbox of TestSandbox the others have their turn at the next run.
func sampled(probes []wire.Probe, most int) []wire.Probe {
	if *write || *names != "" {
		return probes
	}
	rand.Shuffle(len(probes), func(i, j int) { probes[i], probes[j] = probes[j], probes[i] })
	return probes[:min(most, len(probes))]
}

// half is a sample of half of the probes that are about something.
func half(t *testing.T, about func(wire.Probe) bool) []wire.Probe {
	t.Helper()
	probes, _ := split(chosen(t), about)
	return sampled(probes, (len(probes)+1)/2)
}

// split returns the probes that are about something, and the others.
func split(probes []wire.Probe, about func(wire.Probe) bool) (those, others []wire.Probe) {
	for _, p := range probes {
		if about(p) {
			those = append(those, p)
		} else {
			others = append(others, p)
		}
	}
	return those, others
}

// measure runs probes in one column, each in a world of its own, and compares
// what they achieved with the table. Most of their time is waiting.
func measure(t *testing.T, name string, c column, probes []wire.Probe, check func(*testing.T, wire.Probe, wire.Result)) {
	var mu sync.Mutex
	measured := make(outcomes)
	t.Run("probe", func(t *testing.T) {
		for _, p := range probes {
			t.Run(p.Name, func(t *testing.T) {
				t.Parallel()
				r := attack(t, c, p)
				mu.Lock()
				measured[p.Name] = r
				mu.Unlock()
				check(t, p, r)
			})
		}
	})
	compare(t, name, measured)
}

// TestSandboxOfRoot: a service that runs as the host's root, because its configuration says so, gets
// out no more than one with an id of its own.
func TestSandboxOfRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root starts services as root")
	}
	t.Parallel()
	const unbound = "fork-bomb" // RLIMIT_NPROC does not bind the host's root
	asOn(t, sandboxed{more: "user = \"root\"\n"}, unbound, []string{"files", "namespaces", "processes", "kernel", "limits", "devices"})
}
