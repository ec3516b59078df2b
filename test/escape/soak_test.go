package escape

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"activator/test/escape/wire"

	"golang.org/x/sys/unix"
)

// TestSoak runs for as long as ACTIVATOR_SOAK says, and a few seconds without it. Four services of
// different handover are attacked by probes at random. Beside them four more have honest clients
// all the time. Services, the guard and the activator are killed at random. No honest client is lost
// or gets a wrong answer but those that were connected to what was killed; no probe gets out; nothing is
// left behind; and the activator needs no more memory and descriptors in the end than at the beginning.
func TestSoak(t *testing.T) {
	limit := 8 * time.Second
	if text := os.Getenv("ACTIVATOR_SOAK"); text != "" {
		var err error
		if limit, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	k := newSoak(t)
	k.start()
	k.run(limit/2, true)
	// The activator's last life is long, so that what grows is seen. At first everything is made once.
	k.run(limit/8, false)
	first := k.settle(limit)
	k.run(limit*3/8, false)
	last := k.settle(limit)
	k.finish()
	t.Logf("%v: %d honest exchanges, %d of them with what was killed; %d attacks, %d of them cut off; killed: %v",
		limit, k.exchanges.Load(), k.excused.Load(), k.attacks.Load(), k.cutOff.Load(), k.killed)
	t.Logf("the activator at rest, after an eighth of the time and in the end: %v, %v", first, last)
	// What load makes for the first time is growth of a short run, and a relay keeps what it has for a client for
	// minutes: so many descriptors, and each with memory. How many come in a short run is the machine's.
	const most, each = 96 << 10, 128 // KiB
	switch {
	case limit <= 10*time.Minute:
		if bound := most + each*last.descriptors; last.memory > bound {
			t.Errorf("the activator has %v, more than %d KiB", last, bound)
		}
	case last.descriptors > first.descriptors+16, last.memory > first.memory*3/2+8<<10:
		t.Errorf("the activator has grown: %v, then %v", first, last)
	}
}

// soak is one activator with its services. Its fields but the counters belong to the test's goroutine.
type soak struct {
	t       *testing.T
	dir     string // with a configuration for each service
	members []*soaked
	cmd     *exec.Cmd
	log     soakLog
	lives   atomic.Int64 // odd while there is no activator
	killed  map[string]int

	exchanges, excused, attacks, cutOff atomic.Int64
}

// soaked is one of the services.
type soaked struct {
	*world
	name, handover string
	attacked       bool
	kills          atomic.Int64 // of its process; odd while it ends
}

const stdioService = `[[socket]]
listen = ["unix://%[3]s"]

[service]
exec = [%[5]q, "stdio"]
handover = "stdio"
accept = true
`

func newSoak(t *testing.T) *soak {
	t.Helper()
	k := &soak{t: t, dir: filepath.Join(newWorld(t).dir, "conf"), killed: make(map[string]int)}
	if err := os.Mkdir(k.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for handover, format := range map[string]string{"fds": configuration, "bind": bound, "proxy": carried, "stdio": stdioService} {
		for _, attacked := range []bool{false, true} {
			m := &soaked{world: newWorld(t), name: "honest-" + handover, handover: handover, attacked: attacked}
			m.choosePorts()
			if attacked {
				m.name = "attacked-" + handover
			}
			program := format
			if !attacked {
				program = strings.NewReplacer(`"serve"]`, `"honest"]`, `"bind"]`, `"honest", "bind"]`, `"stdio"]`, `"honest", "stdio"]`).Replace(format)
			}
			text := fmt.Sprintf(strings.Replace(program, "as = \"1G\"", "as = \"4G\"", 1), m.port, m.port6, m.unix, m.unixgram, m.binary)
			if !attacked && handover != "stdio" {
				text += "idle_timeout = \"300ms\"\nrestart_max_delay = \"1s\"\n" // it is killed often, and clients wait for hold
			}
			if err := os.WriteFile(filepath.Join(k.dir, m.name+".toml"), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			k.members = append(k.members, m)
		}
	}
	return k
}

// start starts the activator, and returns when it is ready.
func (k *soak) start() {
	k.t.Helper()
	ready := k.log.begin()
	k.cmd = exec.Command(program(k.t, "activator"), "--config", k.dir)
	k.cmd.Stderr = &k.log
	if err := k.cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	select {
	case <-ready:
	case <-time.After(waitTimeout):
		k.t.Fatalf("the activator does not get ready:\n%s", k.log.last())
	}
}

// run attacks, asks and kills for a while, and kills the activator itself too if it may.
func (k *soak) run(limit time.Duration, activator bool) {
	end := time.Now().Add(limit)
	var all sync.WaitGroup
	for _, m := range k.members {
		if m.attacked {
			all.Go(func() { k.attackUntil(end, m) })
			continue
		}
		for _, network := range []string{"tcp4", "udp4", "tcp6", "udp6", "unix"} {
			if m.handover != "stdio" || network == "unix" {
				all.Go(func() { k.askUntil(end, m, network) })
			}
		}
	}
	pause := time.NewTicker(500 * time.Millisecond)
	defer pause.Stop()
	for now := time.Now(); now.Before(end); now = <-pause.C {
		k.killOne(activator)
	}
	all.Wait()
}

// askUntil is a client that comes again and again, sometimes after the service has been stopped as idle.
func (k *soak) askUntil(end time.Time, m *soaked, network string) {
	for time.Now().Before(end) {
		life, kills := k.lives.Load(), m.kills.Load()
		err := m.exchange(network)
		k.exchanges.Add(1)
		switch {
		case err == nil:
		case !k.undisturbed(m, life, kills):
			k.excused.Add(1)
		default:
			k.t.Errorf("lost: %s by %s: %v\n%s", m.name, network, err, k.log.last())
		}
		pauseAtRandom(400 * time.Millisecond)
	}
}

// undisturbed reports whether neither the activator nor the process of a service is, or was, being
// killed since their counters were read.
func (k *soak) undisturbed(m *soaked, life, kills int64) bool {
	return life%2 == 0 && kills%2 == 0 && k.lives.Load() == life && m.kills.Load() == kills
}

// exchange sends a line and wants it back.
func (m *soaked) exchange(network string) error {
	c, err := net.DialTimeout(network, map[string]string{"tcp4": m.tcp4, "udp4": m.udp4, "tcp6": m.tcp6, "udp6": m.udp6, "unix": m.unix}[network], waitTimeout)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(waitTimeout))
	text := rand.Text()
	if _, err := c.Write([]byte(text)); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("sent %q, got %q", text, got)
	}
	return nil
}

// attackUntil runs probes of all groups at random.
func (k *soak) attackUntil(end time.Time, m *soaked) {
	groups := make(map[string][]wire.Probe)
	for _, p := range allProbes(k.t) {
		if m.suits(p) {
			groups[p.Group] = append(groups[p.Group], p)
		}
	}
	var names []string
	for name := range groups {
		names = append(names, name)
	}
	slices.Sort(names)
	for time.Now().Before(end) {
		group := groups[names[random(len(names))]]
		p := group[random(len(group))]
		k.t.Run(m.name+"/"+p.Name, func(t *testing.T) { k.attackOnce(t, m, p) })
		pauseAtRandom(100 * time.Millisecond)
	}
}

// suits reports whether a probe can be tried in a service that goes on, and whether what it returns
// means anything with this handover.
func (m *soaked) suits(p wire.Probe) bool {
	special := []string{"keyring", "leaked-directory", "stdio-reopen", "self-exe", "tiocsti", "tiocsti-high-bits", "outlive-child", "outlive-exec", "udp-source-route"}
	switch {
	case slices.Contains(special, p.Name), strings.HasPrefix(p.Name, "queue-"), p.Group == "output", p.Group == "limits", m.refills(p):
		return false // what it needs is started for it
	case m.handover == "stdio":
		return !aboutSockets(p)
	case p.Group == "UDP" && (os.Geteuid() != 0 || m.handover == "proxy"):
		return false // it waits for a client's datagram, which a relay gives up after three instances that did not read it
	case m.handover == "proxy" && aboutSockets(p):
		return p.Witness == wire.WitnessNonce || p.Witness == wire.WitnessSecret
	case p.Group == "poison" || p.Group == "ports":
		return p.Witness == wire.WitnessNext && m.handover == "fds"
	}
	return true
}

// attackOnce runs a probe. Its result counts, unless the attacked was killed meanwhile.
func (k *soak) attackOnce(t *testing.T, m *soaked, p wire.Probe) {
	life, kills := k.lives.Load(), m.kills.Load()
	w := newWorld(t)
	w.port, w.port6, w.tcp4, w.tcp6, w.udp4, w.udp6, w.unix, w.unixgram = m.port, m.port6, m.tcp4, m.tcp6, m.udp4, m.udp6, m.unix, m.unixgram
	k.attacks.Add(1)
	// The service before may have shut its sockets down, or had us in a queue of its own when it ended.
	o, r, err := w.tryProbe(p, soakStage{k}, m.handover != "stdio")
	for end := time.Now().Add(waitTimeout); err != nil && time.Now().Before(end); k.cutOff.Add(1) {
		pauseAtRandom(100 * time.Millisecond)
		o, r, err = w.tryProbe(p, soakStage{k}, m.handover != "stdio")
	}
	if err == nil && p.Witness != wire.WitnessNext && k.undisturbed(m, life, kills) {
		r = w.judge(o, r)
	}
	switch {
	case !k.undisturbed(m, life, kills):
		k.cutOff.Add(1)
	case err != nil:
		t.Errorf("%s: %s: no answer: %v\n%s", m.name, p.Name, err, k.log.last())
	case p.Witness == wire.WitnessNext: // the next attack asks the next instance
	case r.Achieved:
		t.Errorf("GOT OUT: %s: %s (%s): %s", m.name, p.Tries, p.Means, r.How)
	}
}

// tryProbe connects as the harness of a probe and runs it.
func (w *world) tryProbe(p wire.Probe, s stage, clients bool) (*operator, wire.Result, error) {
	c, err := net.DialTimeout("unix", w.unix, waitTimeout)
	if err != nil {
		return nil, wire.Result{}, err
	}
	w.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(waitTimeout))
	if clients && p.Witness != wire.WitnessNext {
		err = w.connectClients()
	}
	// Another instance may have had the datagram of ours that a marker would be sent to: none is waited for.
	o := &operator{w: w, s: s, control: c.(*net.UnixConn), lines: bufio.NewReader(c), probe: p, marked: true}
	if err != nil {
		return o, wire.Result{}, err
	}
	r, err := o.run(w.request(p))
	return o, r, err
}

// soakStage is an activator that no probe may end.
type soakStage struct{ k *soak }

func (soakStage) next()            {}
func (soakStage) ended()           {}
func (soakStage) kill()            {}
func (soakStage) end()             {}
func (s soakStage) output() string { return s.k.log.last() }

// killOne kills the process of a service, the guard or, if it may, the activator.
func (k *soak) killOne(activator bool) {
	m := k.members[random(len(k.members))]
	switch n := random(20); {
	case n == 0 && activator:
		k.lives.Add(1)
		_ = k.cmd.Process.Kill()
		_ = k.cmd.Wait() // it was killed
		k.start()
		k.lives.Add(1)
		k.killed["activator"]++
	case n < 4:
		for _, pid := range childrenOf(k.cmd.Process.Pid) {
			if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.HasPrefix(string(name), "activator-guard\x00") {
				_ = syscall.Kill(pid, syscall.SIGKILL)
				k.killed["guard"]++
			}
		}
	default:
		pid := k.log.pid(m.name)
		if !slices.Contains(childrenOf(k.cmd.Process.Pid), pid) {
			return
		}
		m.kills.Add(1)
		_ = syscall.Kill(pid, syscall.SIGKILL)
		for slices.Contains(childrenOf(k.cmd.Process.Pid), pid) {
			runtime.Gosched()
		}
		m.kills.Add(1)
		k.killed["service"]++
	}
}

// childrenOf lists the children of a process.
func childrenOf(pid int) (children []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for _, field := range strings.Fields(string(text)) {
			var child int
			if _, err := fmt.Sscan(field, &child); err == nil {
				children = append(children, child)
			}
		}
	}
	return children
}

// usage is what the activator has: descriptors, and KiB of memory.
type usage struct{ descriptors, memory int }

func (u usage) String() string {
	return fmt.Sprintf("%d descriptors and %d KiB", u.descriptors, u.memory)
}

// settle waits until the activator needs no fewer descriptors any more, at most for as long as the test
// runs, and says what it has then.
func (k *soak) settle(limit time.Duration) (u usage) {
	k.t.Helper()
	deadline := time.Now().Add(min(limit, 10*time.Minute))
	for before := (usage{-1, 0}); ; before = u {
		time.Sleep(time.Second) // what is idle is stopped, and sandboxes are made for the next start
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", k.cmd.Process.Pid))
		status, err2 := os.ReadFile(fmt.Sprintf("/proc/%d/status", k.cmd.Process.Pid))
		if err := errors.Join(err, err2); err != nil {
			k.t.Fatalf("%v\n%s", err, k.log.last())
		}
		_, after, _ := strings.Cut(string(status), "VmRSS:")
		u = usage{descriptors: len(fds)}
		_, _ = fmt.Sscan(after, &u.memory)
		if u.descriptors == before.descriptors && limit < time.Minute || time.Now().After(deadline) {
			return u
		}
	}
}

// finish ends the activator in order: nothing of it is left.
func (k *soak) finish() {
	k.t.Helper()
	_ = k.cmd.Process.Signal(syscall.SIGTERM)
	hang := time.AfterFunc(waitTimeout, func() { _ = k.cmd.Process.Kill() })
	err := k.cmd.Wait()
	hang.Stop()
	if err != nil {
		k.t.Errorf("the activator ended with %v\n%s", err, k.log.last())
	}
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, link := range links {
		path, _ := os.Readlink(link)
		for _, m := range k.members {
			if strings.TrimSuffix(path, " (deleted)") == m.binary {
				k.t.Errorf("left behind: %s, %s", filepath.Dir(link), path)
			}
		}
	}
	for _, m := range k.members {
		if err := unix.Access(m.unix, unix.F_OK); err != unix.ENOENT {
			k.t.Errorf("left behind: %s: %v", m.unix, err)
		}
	}
}

func random(n int) int {
	i, err := rand.Int(rand.Reader, big.NewInt(int64(n)))
	if err != nil {
		panic(err)
	}
	return int(i.Int64())
}

func pauseAtRandom(limit time.Duration) { time.Sleep(time.Duration(random(int(limit)))) }

// soakLog keeps of the activator's log the last lines, and the process of each service.
type soakLog struct {
	mu    sync.Mutex
	part  string // of a line
	lines []string
	pids  map[string]int
	ready chan struct{}
}

// begin returns a channel that is closed when the next activator is ready.
func (l *soakLog) begin() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pids, l.ready = make(map[string]int), make(chan struct{})
	return l.ready
}

func (l *soakLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := strings.Split(l.part+string(p), "\n")
	l.part = all[len(all)-1]
	for _, line := range all[:len(all)-1] {
		if strings.Contains(line, `msg="activator ready"`) {
			close(l.ready)
		}
		if _, after, running := strings.Cut(line, `msg="service running" service=`); running {
			name, rest, _ := strings.Cut(after, " ")
			_, number, _ := strings.Cut(rest, "pid=")
			var pid int
			_, _ = fmt.Sscan(number, &pid)
			l.pids[name] = pid
		}
		l.lines = append(l.lines[max(len(l.lines)-40, 0):], line)
	}
	return len(p), nil
}

func (l *soakLog) pid(name string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pids[name]
}

func (l *soakLog) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}
