package container

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"debug/elf"
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
	"activator/internal/process"
	"activator/internal/spec"
	"activator/internal/usernotif"
)

const image = "localhost/activator-test-busybox"

// ownName is the containers' name in this run.
var ownName = fmt.Sprintf("activator-test-%d", os.Getpid())

// busybox makes the image, once: a static busybox and nothing else.
var busybox = sync.OnceValue(func() error {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	file, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return err
	}
	if libraries, err := file.ImportedLibraries(); err != nil || len(libraries) > 0 {
		return fmt.Errorf("%s is not static: install busybox-static", path)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, name := range []string{"busybox", "sh"} {
		if err := w.WriteHeader(&tar.Header{Name: "bin/" + name, Mode: 0o755, Size: int64(len(program)), Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		if _, err := w.Write(program); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	// The one of the last time would stay without a name, and does where somebody else tests with it.
	_, _ = askEngine(context.Background(), "podman", "image", "rm", image)
	cmd := exec.Command("podman", "import", "--quiet", "-", image)
	cmd.Env, cmd.Stdin = questionEnviron(), &archive
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("podman import: %w: %s", err, out)
	}
	return nil
})

// described is a shell script in a container.
func described(t *testing.T, script string, change func(*spec.Service)) spec.Service {
	ktest.Filters(t)
	t.Helper()
	if _, err := exec.LookPath("podman"); err != nil {
		ktest.Skip(t, "%v", err)
	}
	if err := busybox(); err != nil {
		ktest.Skip(t, "%v", err)
	}
	s := spec.Service{File: t.Name(), Process: spec.Process{Name: ownName, Umask: 0o22, Sandbox: spec.Sandbox{Seal: true}},
		Container: &spec.Container{Engine: "podman", Image: image, Command: []string{"/bin/busybox", "sh", "-c", script}}}
	if change != nil {
		change(&s)
	}
	return s
}

// contained is a container that runs.
type contained struct {
	*process.Process
	t      *testing.T
	engine *Engine
	answer context.CancelFunc
	out    *os.File
}

// start starts it as a service's would be, with a supervisor of its calls.
func start(t *testing.T, s spec.Service, change func(*spec.Process, *process.Inputs, *usernotif.Policy), sockets ...*os.File) (*contained, error) {
	t.Helper()
	starter, err := process.NewStarter()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(starter.Close)
	c := &contained{t: t, engine: &Engine{of: service{s}, left: true}}
	if c.out, err = os.CreateTemp(t.TempDir(), "output"); err != nil {
		t.Fatal(err)
	}
	conf := spec.Process{Name: s.Name, Argv: []string{s.Container.Engine}, Env: EngineEnviron(), Umask: 0o22, FDNames: s.FDNames}
	given := process.Inputs{Stdio: process.Stdio{Out: c.out, Err: c.out}, Sockets: sockets, Engine: c.engine}
	var policy usernotif.Policy
	if change != nil {
		change(&conf, &given, &policy)
	}
	if c.Process, err = starter.Prepare(t.Context(), conf, given); err != nil {
		return nil, err
	}
	policy.Engine, policy.Reports = c.EngineNamespace(), []usernotif.Report{{Path: NotifyPath, Node: c.NotifyNode()}}
	supervisor, err := usernotif.New(c.TakeListener(), policy)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := supervisor.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	c.answer = func() { cancel(); <-done; _ = supervisor.Close() }
	return c, c.Go(t.Context())
}

// end waits for its end.
func (c *contained) end() process.Exit {
	c.t.Helper()
	exit, err := c.Wait()
	if err != nil {
		c.t.Error(err)
	}
	c.answer()
	if err := c.Close(); err != nil {
		c.t.Error(err)
	}
	return exit
}

func (c *contained) said() string {
	text, err := os.ReadFile(c.out.Name())
	if err != nil {
		c.t.Error(err)
	}
	return string(text)
}

// output is what a container says that ends well.
func output(t *testing.T, s spec.Service, change func(*spec.Process, *process.Inputs, *usernotif.Policy)) string {
	t.Helper()
	c, err := start(t, s, change)
	if err != nil {
		t.Fatal(err)
	}
	if exit := c.end(); !exit.OK() {
		t.Fatalf("%v: %s", exit, c.said())
	}
	return c.said()
}

func TestInside(t *testing.T) {
	got := output(t, described(t, `exec 2>&1
		busybox ip -o addr | busybox awk '{print $2, $3, $4}'
		busybox ip route; busybox ip -6 route show table main
		busybox grep -E '^(NoNewPrivs|CapEff|CapBnd):' /proc/self/status
		echo pid $$; busybox touch /forbidden || echo read-only
		busybox hostname; umask; busybox wget -q -O - http://192.0.2.1/ || echo unreachable`, nil), nil)
	want := "lo inet 127.0.0.1/8\nlo inet6 ::1/128\n" +
		"CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\n" +
		"pid 1\ntouch: /forbidden: Read-only file system\nread-only\n" +
		ownName + "\n0022\nwget: socket: Address family not supported by protocol\nunreachable\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// What talks over its own lo can, where it is told so, and connects as far as it is told.
func TestInternetSockets(t *testing.T) {
	for _, may := range []bool{true, false} {
		got := output(t, described(t, `exec 2>&1
			busybox httpd -p 127.0.0.1:80 -h /bin && echo listens
			busybox wget -q -O - http://127.0.0.1/sh | busybox wc -c`, func(s *spec.Service) { s.Container.Internet = true }),
			func(_ *spec.Process, _ *process.Inputs, policy *usernotif.Policy) { policy.IP = may })
		file, err := exec.LookPath("busybox")
		if err != nil {
			t.Fatal(err)
		}
		stat, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if whole := strings.HasSuffix(got, fmt.Sprintf("listens\n%d\n", stat.Size())); whole != may {
			t.Errorf("may connect: %v: %s", may, got)
		}
	}
}

// The contrast: what the network table opens is open.
func TestHostNetwork(t *testing.T) {
	ours, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	got := output(t, described(t, "busybox cat /proc/net/dev; busybox ip -o link | busybox wc -l", func(s *spec.Service) { s.Sandbox.Network, s.Container.Internet = "host", true }), nil)
	for _, i := range ours {
		if !strings.Contains(got, i.Name+":") {
			t.Errorf("%s is missing in\n%s", i.Name, got)
		}
	}
}

// Descriptors arrive at 3 and on, with the variables as the program inside must
// see them.
func TestSockets(t *testing.T) {
	var ours, theirs []*os.File
	for range 2 {
		pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		ours = append(ours, os.NewFile(uintptr(pair[0]), "ours"))
		theirs = append(theirs, os.NewFile(uintptr(pair[1]), "theirs"))
	}
	// Until podman passes on signals one ends it, and it does so before it reads the exit.
	c, err := start(t, described(t, `
		echo "$LISTEN_FDS $LISTEN_PID $LISTEN_FDNAMES $$ $A" >&3
		trap "exit 7" TERM
		busybox sleep 1
		echo second >&4
		while :; do busybox sleep 0.1; done`,
		func(s *spec.Service) { s.FDNames, s.Env = []string{"one", "two"}, []string{"A=b c"} }), nil, theirs...)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"2 1 one:two 1 b c\n", "second\n"} {
		theirs[i].Close()
		got, err := bufio.NewReader(ours[i]).ReadString('\n')
		if err != nil || got != want {
			t.Errorf("%d: got %q, %v, want %q; %s", i, got, err, want, c.said())
		}
		ours[i].Close()
	}
	if _, err := c.Stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if exit := c.end(); exit.Code != 7 {
		t.Errorf("%v, want the container's 7: %s", exit, c.said())
	}
	noneLeft(t)
}

// What it says comes to our socket itself, whatever it says and however often: sent, and
// over a connection, though it may connect to nothing.
func TestNotify(t *testing.T) {
	c, err := start(t, described(t, `busybox ls -l $NOTIFY_SOCKET
		echo READY=1 | busybox nc -u -w 1 local:$NOTIFY_SOCKET
		busybox cat /proc/net/unix | busybox wc -l`, nil), func(p *spec.Process, _ *process.Inputs, _ *usernotif.Policy) { p.Notify = true })
	if err != nil {
		t.Fatal(err)
	}
	c.end()
	if got := c.said(); !strings.HasPrefix(got, "srwxrwxrwx") || !strings.Contains(got, NotifyPath) {
		t.Errorf("got %q", got)
	}
}

// noneLeft waits until no process of the container's is left, and fails if one
// stays, or the container in the engine's list.
func noneLeft(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		left := running(ownName)
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("left behind: %q", left)
		}
	}
	var names string
	var err error
	for range listTries {
		if names, err = askEngine(t.Context(), "podman", "ps", "--all", "--external", "--format", "{{.Names}}"); err == nil {
			break
		}
	}
	if err != nil || strings.Contains(names, ownName) {
		t.Errorf("containers left: %q, %v", names, err)
	}
}

// running lists the command lines that hold word: engine, monitor and
// runtime are all told the container's name.
func running(word string) []string {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var found []string
	for _, path := range paths {
		if text, err := os.ReadFile(path); err == nil && bytes.Contains(text, []byte("--name="+word)) || bytes.Contains(text, []byte("-n\x00"+word)) {
			found = append(found, path+": "+string(bytes.ReplaceAll(text, []byte{0}, []byte{' '})))
		}
	}
	return found
}

func TestMissing(t *testing.T) {
	if _, err := exec.LookPath("podman"); err != nil {
		ktest.Skip(t, "%v", err)
	}
	ctx := context.Background()
	_, err := Resolve(ctx, spec.Service{Process: spec.Process{Name: "x"}, Container: &spec.Container{Engine: "/nowhere/podman", Image: "x"}})
	if err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("engine by path: %v", err)
	}
	_, err = Resolve(ctx, spec.Service{Process: spec.Process{Name: "x"}, Container: &spec.Container{Engine: "podman", Image: "localhost/not-there"}})
	if err == nil || !strings.Contains(err.Error(), "podman pull localhost/not-there") {
		t.Errorf("image: %v", err)
	}
	_, err = Resolve(ctx, spec.Service{Process: spec.Process{Name: "x"}, Container: &spec.Container{Engine: "podman", Image: "localhost/activator-echo-not-there"}})
	if err == nil || !strings.Contains(err.Error(), "make image") {
		t.Errorf("our image: %v", err)
	}
	t.Setenv("PATH", "/nowhere")
	_, err = Resolve(ctx, spec.Service{Process: spec.Process{Name: "x"}, Container: &spec.Container{Engine: "podman", Image: "x"}})
	if err == nil || !strings.Contains(err.Error(), "apt-get install podman") {
		t.Errorf("engine: %v", err)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Errorf("started something: %v", err)
	}
}
