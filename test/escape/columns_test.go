package escape

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"activator/internal/ktest"
	"activator/test/escape/wire"

	"golang.org/x/sys/unix"
)

// column is a way to start the intruder: a column of the table.
type column interface {
	start(t *testing.T, w *world, p wire.Probe) stage
}

// stage is what has been started.
type stage interface {
	next()          // an instance is there, or will be when a client comes
	ended()         // the instance has ended
	kill()          // SIGKILL to the starter
	end()           // ends it, if it has not ended: no process of it is left
	output() string // what was printed
}

// handed starts instances with the same sockets one after the other.
type handed struct {
	t       *testing.T
	w       *world
	argv    []string
	files   []*os.File
	cmd     *exec.Cmd // nil: none runs
	cleanup func()
}

// hand makes the sockets. The last descriptor is a directory that was left open.
func hand(t *testing.T, w *world, p wire.Probe, argv ...string) *handed {
	t.Helper()
	h := &handed{t: t, w: w, argv: append([]string{w.binary, "starter"}, argv...)}
	if p.Name == "keyring" {
		h.argv = append([]string{w.binary, "with-key", "intruder-" + w.nonce, w.secret}, h.argv...)
	}
	if err := h.bindAll(); err != nil {
		t.Fatal(err)
	}
	more, err := h.refillFiles(p)
	h.files = append(h.files, more...)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	h.files = append(h.files, dir)
	t.Cleanup(h.close)
	return h
}

// bindAll binds the sockets. Ports that were free may be taken by now: others
// test on this machine too.
func (h *handed) bindAll() (err error) {
	w := h.w
	for range 5 {
		w.choosePorts()
		h.files = nil
		for _, l := range []struct{ network, address string }{{"tcp4", w.tcp4}, {"udp4", w.udp4}, {"tcp", "[::]:" + w.port6}, {"udp", "[::]:" + w.port6},
			{"unix", w.unix}, {"unixgram", w.unixgram}} {
			var f *os.File
			if f, err = bind(h.t.Context(), l.network, l.address); err != nil {
				break
			}
			h.files = append(h.files, f)
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
		for _, f := range h.files {
			f.Close()
		}
	}
	return err
}

// bind makes a socket without a goroutine of Go behind it.
func bind(ctx context.Context, network, address string) (*os.File, error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	var c any
	var err error
	if strings.HasPrefix(network, "udp") || network == "unixgram" {
		c, err = config.ListenPacket(ctx, network, address)
	} else {
		c, err = config.Listen(ctx, network, address)
	}
	if err != nil {
		return nil, err
	}
	if u, ok := c.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	socket := c.(interface {
		File() (*os.File, error)
		Close() error
	})
	f, err := socket.File()
	if err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	// A file that Go knows as non-blocking it makes blocking at each start, and
	// would so mend what a probe has spoiled.
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err := errors.Join(err, f.Close(), socket.Close()); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), network), nil
}

func (h *handed) next() {
	h.t.Helper()
	log, err := os.OpenFile(filepath.Join(h.w.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close()
	if _, err := log.WriteString(h.w.secret + "\n"); err != nil {
		h.t.Fatal(err)
	}
	h.cmd = exec.Command(h.argv[0], h.argv[1:]...)
	h.cmd.Stdout, h.cmd.Stderr = log, log
	if h.w.output.file != nil {
		h.cmd.Stdout = h.w.output.file
	}
	h.cmd.ExtraFiles = h.files
	h.cmd.Env = append(os.Environ(), fmt.Sprintf("LISTEN_FDS=%d", len(h.files)-1))
	if h.w.terminal != nil {
		h.cmd.Stdout = h.w.terminal.slave
		h.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 1}
	}
	if err := h.cmd.Start(); err != nil {
		h.cmd = nil
		h.t.Fatal(err)
	}
}

// ended waits for the instance, which has been told to end.
func (h *handed) ended() {
	if h.cmd == nil {
		return
	}
	done := make(chan struct{})
	go func() {
		_ = h.cmd.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(waitTimeout):
		h.t.Errorf("the instance does not end:\n%s", h.output())
		_ = h.cmd.Process.Kill()
		<-done
	}
	h.cmd = nil
}

func (h *handed) kill() {
	_ = h.cmd.Process.Kill()
	h.ended()
}

func (h *handed) end() { h.ended() }

func (h *handed) close() {
	if h.cmd != nil && h.cleanup == nil {
		_ = h.cmd.Process.Kill() // the starter only; the intruder ends with its connection
	}
	h.ended()
	if h.cleanup != nil {
		h.cleanup()
	}
	for _, f := range h.files {
		f.Close()
	}
}

func (h *handed) output() string {
	text, _ := os.ReadFile(filepath.Join(h.w.dir, "log"))
	return string(text)
}

// bare is no isolation at all.
type bare struct{}

func (bare) start(t *testing.T, w *world, p wire.Probe) stage {
	return hand(t, w, p, w.binary, "serve")
}

// bubblewrap is bwrap as its manual page has it, with the program and the host's
// /usr and /etc inside.
type bubblewrap struct{}

func (bubblewrap) start(t *testing.T, w *world, p wire.Probe) stage {
	path, err := exec.LookPath("bwrap")
	if err != nil {
		t.Fatal(err)
	}
	return hand(t, w, p, path, "--unshare-all", "--die-with-parent", "--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc",
		"--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64", "--symlink", "usr/bin", "/bin", "--proc", "/proc", "--dev", "/dev",
		"--tmpfs", "/tmp", "--ro-bind", w.binary, "/intruder", "/intruder", "serve")
}

const podmanImage = "localhost/activator-intruder"

func makeImage(t *testing.T) {
	t.Helper()
	out, err := exec.Command("../image.sh", podmanImage, program(t, "intruder")).CombinedOutput()
	if err != nil {
		ktest.Skip(t, "image: %v: %s", err, out)
	}
}

// podman is a container with every hardening flag. It runs in a mount namespace
// with a cgroup2 of its own where it refuses the host's (hybrid cgroups).
type podman struct{}

func (podman) start(t *testing.T, w *world, p wire.Probe) stage {
	name := "escape-" + strings.ToLower(w.nonce)
	const prepare = `mount -n --make-rprivate / && mount -n -t cgroup2 none /sys/fs/cgroup && exec podman "$@"`
	in := []string{"unshare", "--mount", "/bin/sh", "-c", prepare, "podman"}
	path, err := exec.LookPath(in[0])
	if err != nil {
		t.Fatal(err)
	}
	in[0] = path
	run := []string{"run", "--rm", "--name=" + name, "--network=none", "--cap-drop=all", "--security-opt=no-new-privileges", "--read-only",
		"--cgroups=disabled", "--ulimit=nofile=1024:1024", "--ulimit=nproc=64:64", podmanImage, "serve"}
	h := hand(t, w, p, append(in, run...)...)
	h.cleanup = func() {
		out, err := exec.Command(path, append(in[1:], "rm", "--force", "--ignore", "--time=0", name)...).CombinedOutput()
		if err != nil {
			t.Errorf("podman rm: %v: %s", err, out)
		}
	}
	return h
}

// sandboxed is the activator with a configuration that says where the sockets
// are, and the limits that two probes run against.
type sandboxed struct {
	more   string // of the configuration; DIR is the folder of the host's witnesses
	socket string // a line of its [[socket]]
	kernel string // what the activator is to do without, as oldkernel has it; "": nothing
}

const configuration = `[[socket]]
listen = ["tcp://127.0.0.1:%[1]s", "udp://127.0.0.1:%[1]s", "tcp://[::]:%[2]s", "udp://[::]:%[2]s",
          "unix://%[3]s", "unixgram://%[4]s"]

[service]
exec = [%[5]q, "serve"]
limits = { nproc = 64, as = "1G" }
`

// running is an activator.
type running struct {
	t      *testing.T
	cmd    *exec.Cmd
	log    *logged
	gone   chan struct{} // closed when it has ended, with err
	err    error
	killed bool
}

func (s sandboxed) start(t *testing.T, w *world, p wire.Probe) stage {
	t.Helper()
	format := strings.Replace(configuration, "\n[service]", s.socket+"\n[service]", 1)
	return startActivator(t, w, p, s.kernel, format, strings.ReplaceAll(s.more, "DIR", w.dir))
}

// inContainer is the activator with a container of podman's.
type inContainer struct {
	container string // more of its [container]
	more      string
}

const containerConfiguration = `[[socket]]
listen = ["tcp://127.0.0.1:%[1]s", "udp://127.0.0.1:%[1]s", "tcp://[::]:%[2]s", "udp://[::]:%[2]s",
          "unix://%[3]s", "unixgram://%[4]s"]

[container] # of what is %[5]q elsewhere
image = "` + podmanImage + `"
command = ["serve"]

[service]
`

func (c inContainer) start(t *testing.T, w *world, p wire.Probe) stage {
	t.Helper()
	// Its name is the container's, and these run side by side.
	w.service = "escape-" + strings.ToLower(w.nonce)
	name := w.service
	t.Cleanup(func() { // of an activator that was killed
		if out, err := exec.Command("podman", "rm", "--force", "--ignore", "--time=0", name).CombinedOutput(); err != nil {
			t.Errorf("podman rm: %v: %s", err, out)
		}
	})
	return startActivator(t, w, p, "", strings.Replace(containerConfiguration, "\n[service]", c.container+"\n[service]", 1), c.more)
}

// startActivator starts it with a configuration that lacks the addresses and the
// program.
func startActivator(t *testing.T, w *world, p wire.Probe, kernel, format, more string) stage {
	t.Helper()
	for try := range 5 {
		w.choosePorts()
		a := activate(t, w, p, kernel, format, more)
		select {
		case <-a.log.ready:
			t.Cleanup(a.stop)
			return a
		case <-time.After(waitTimeout):
			_ = a.cmd.Process.Kill()
			<-a.gone
			t.Fatalf("the activator does not get ready:\n%s", a.output())
		case <-a.gone: // a port may be taken by now
			if try == 4 || !strings.Contains(a.output(), "address already in use") {
				t.Fatalf("the activator does not start:\n%s", a.output())
			}
		}
	}
	return nil
}

func activate(t *testing.T, w *world, p wire.Probe, kernel, format, more string) *running {
	t.Helper()
	text := fmt.Sprintf(format, w.port, w.port6, w.unix, w.unixgram, w.binary)
	argv := []string{program(t, "activator"), "--config", filepath.Join(w.dir, w.service+".toml")}
	if kernel != "" {
		argv = append([]string{program(t, "oldkernel"), kernel}, argv...)
	}
	if p.Name == "keyring" {
		argv = append([]string{w.binary, "with-key", "intruder-" + w.nonce, w.secret}, argv...)
	}
	a := &running{t: t, cmd: exec.Command(argv[0], argv[1:]...), log: &logged{ready: make(chan struct{})}, gone: make(chan struct{})}
	a.cmd.Stderr = a.log
	if w.terminal != nil {
		text += "stdout = \"inherit\"\n"
		a.cmd.Stdout = w.terminal.slave
		a.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 1}
	}
	if w.output.file != nil {
		a.cmd.Stdout = w.output.file
	}
	if w.output.word != "" {
		text += fmt.Sprintf("stdout = %q\n", w.output.word)
	}
	if err := os.WriteFile(argv[len(argv)-1], []byte(w.refillConfiguration(p)+text+more), 0o644); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(w.dir) // left open in the starter
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	a.cmd.ExtraFiles = []*os.File{dir}
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		a.err = a.cmd.Wait()
		close(a.gone)
	}()
	return a
}

func (a *running) next()          {}
func (a *running) ended()         {}
func (a *running) output() string { return a.log.String() }

func (a *running) end() { a.stop() }

func (a *running) kill() {
	a.killed = true
	_ = a.cmd.Process.Kill()
	<-a.gone
}

// stop ends the activator in order, which is part of the test: no intruder keeps
// it from that.
func (a *running) stop() {
	if !a.killed {
		_ = a.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-a.gone:
		case <-time.After(waitTimeout):
			_ = a.cmd.Process.Kill()
			<-a.gone
		}
		if a.err != nil {
			a.t.Errorf("the activator ended with %v", a.err)
		}
	}
	if a.t.Failed() {
		a.t.Logf("the activator's log:\n%s", a.output())
	}
}

// logged keeps the log, and tells when the activator is ready.
type logged struct {
	mu    sync.Mutex
	text  bytes.Buffer
	ready chan struct{}
	said  bool
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	if !l.said && bytes.Contains(l.text.Bytes(), []byte("activator ready")) {
		l.said = true
		close(l.ready)
	}
	return len(p), nil
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
