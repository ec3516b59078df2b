package process

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
	"activator/internal/sandbox"
	"activator/internal/spec"
)

// service is a started helper with its output.
type service struct {
	*Process
	out *bufio.Reader
}

func prepare(t *testing.T, process spec.Process, sockets ...*os.File) (*service, error) {
	t.Helper()
	return prepareFor(t, process, Inputs{Sockets: sockets})
}

func prepareFor(t *testing.T, process spec.Process, given Inputs) (*service, error) {
	t.Helper()
	s := starterFor()
	t.Cleanup(s.Close)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	defer func() { _ = w.Close() }()
	given.Stdio = Stdio{Out: w, Err: w}
	p, err := s.Prepare(t.Context(), process, given)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = p.Close() })
	return &service{p, bufio.NewReader(r)}, nil
}

func start(t *testing.T, process spec.Process, sockets ...*os.File) *service {
	t.Helper()
	s, err := prepare(t, process, sockets...)
	if err == nil {
		err = s.Go(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *service) line(t *testing.T) string {
	t.Helper()
	text, err := s.out.ReadString('\n')
	if err != nil {
		t.Fatalf("%q, %v", text, err)
	}
	return strings.TrimSpace(text)
}

func (s *service) end(t *testing.T) (string, Exit) {
	t.Helper()
	out, err := io.ReadAll(s.out)
	if err != nil {
		t.Fatal(err)
	}
	exit, err := s.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return string(out), exit
}

func (s *service) view(t *testing.T) View {
	t.Helper()
	out, exit := s.end(t)
	var v View
	if err := json.Unmarshal([]byte(out), &v); err != nil || !exit.OK() {
		t.Fatalf("%v, %v: %s", err, exit, out)
	}
	return v
}

func helperSpec(args ...string) spec.Process {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return spec.Process{Name: "test", Argv: append([]string{exe, "helper"}, args...),
		Env: []string{"PATH=/usr/bin:/bin", "GORACE=atexit_sleep_ms=0"}, Umask: 0o27}
}

// expected is the view from the default sandbox.
func expected(id identity) View {
	none := "0000000000000000"
	v := View{
		Pid: 1, UID: id.uid, GID: id.gid, Host: "test", Dir: "/", Umask: "0027",
		Status:     map[string]string{"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none, "NoNewPrivs": "1"},
		Interfaces: []string{"lo true [127.0.0.1/8 ::1/128]"}, Processes: []int{1},
		Files:    []string{"0 /dev/null", "1 pipe", "2 pipe"},
		Writable: writableFolders(id),
		Env:      map[string]string{"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": id.home, "USER": id.name},
	}
	return v
}

// writableFolders are the fresh ones, with the home of a user who has one where homes are.
func writableFolders(id identity) []string {
	folders := []string{"/dev/shm", "/run", "/tmp", "/var", "/var/tmp"}
	if id.home == "/root" || filepath.Dir(id.home) == "/home" {
		folders = append(folders, id.home)
	}
	slices.Sort(folders)
	return folders
}

// settle takes out of v what depends on the host.
func settle(v View) View {
	v.Top, v.NoFile = nil, 0
	kept := v.Writable[:0:0]
	for _, folder := range v.Writable {
		if !strings.HasPrefix(folder, "/tmp/") { // where the test binary is bound
			kept = append(kept, folder)
		}
	}
	v.Writable = kept
	return v
}

func TestViewFromInside(t *testing.T) {
	process := helperSpec("view")
	id, err := findIdentity(&process)
	if err != nil {
		t.Fatal(err)
	}
	want := expected(id)
	for _, init := range []bool{false, true} {
		process.Sandbox.Init = init
		if init {
			want.Pid, want.Processes = 2, []int{1, 2}
		}
		got := start(t, process).view(t)
		if init { // pids go up with the reaper's threads
			want.Pid, want.Processes = got.Pid, []int{1, got.Pid}
		}
		if got := settle(got); !reflect.DeepEqual(got, want) {
			t.Errorf("init %v: got\n%+v, want\n%+v", init, got, want)
		}
	}
}

func TestRootOwnsNothingOfTheHost(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("an ordinary user's service is that user")
	}
	v := start(t, helperSpec("view")).view(t)
	if v.UID != sandbox.ServiceID("test", nil) || v.UID < 61184 || v.UID > 65519 {
		t.Errorf("uid %d", v.UID)
	}
}

func TestSocketsArriveInOrder(t *testing.T) {
	stream, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	file, err := stream.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, init := range []bool{false, true} {
		process := helperSpec("view")
		process.FDNames = []string{"a", "b"}
		process.Env = append(process.Env, "LISTEN_PID=99", "NOTIFY_SOCKET=/nowhere")
		process.Sandbox.Init = init
		v := start(t, process, file, null).view(t)
		if want := []string{"0 /dev/null", "1 pipe", "2 pipe", "3 socket", "4 /dev/null"}; !reflect.DeepEqual(v.Files, want) {
			t.Errorf("init %v: files %q", init, v.Files)
		}
		if v.Env["LISTEN_FDS"] != "2" || v.Env["LISTEN_FDNAMES"] != "a:b" || v.Env["LISTEN_PID"] != itoa(v.Pid) || v.Env["NOTIFY_SOCKET"] != "" {
			t.Errorf("init %v: pid %d, environment %q", init, v.Pid, v.Env)
		}
	}
}

func TestTwoAtOnceSeeOnlyTheirOwn(t *testing.T) {
	s := starterFor()
	defer s.Close()
	done := make(chan error)
	for range 8 {
		go func() {
			p, err := s.Prepare(t.Context(), helperSpec("exit", "4"), Inputs{})
			if err == nil {
				err = p.Go(t.Context())
			}
			if err == nil {
				var exit Exit
				if exit, err = p.Wait(); exit.Code != 4 {
					err = errors.New(exit.String())
				}
				_ = p.Close()
			}
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestSettings(t *testing.T) {
	process := helperSpec("view")
	process.Dir = "/usr"
	process.Limits = []spec.Limit{{Resource: "nofile", Soft: 64, Hard: 128}, {Resource: "core", Soft: 0, Hard: 0}}
	process.Sandbox.Hostname = "elsewhere"
	process.Sandbox.Capabilities = []string{"CAP_NET_BIND_SERVICE", "CAP_BPF"}
	v := start(t, process).view(t)
	mask := "0000008000000400"
	if v.Dir != "/usr" || v.NoFile != 128 || v.Host != "elsewhere" || v.Status["CapEff"] != mask || v.Status["CapBnd"] != mask || v.Status["CapAmb"] != mask {
		t.Errorf("%+v", v)
	}
	process.Sandbox.NewPrivs = true
	if v := start(t, process).view(t); v.Status["NoNewPrivs"] != "0" {
		t.Errorf("%+v", v)
	}
}

func TestExitStatus(t *testing.T) {
	for _, init := range []bool{false, true} {
		process := helperSpec("exit", "42")
		process.Sandbox.Init = init
		if _, exit := start(t, process).end(t); exit.Code != 42 || exit.Signal != 0 {
			t.Errorf("init %v: %v", init, exit)
		}
	}
	s := start(t, helperSpec("sleep"))
	s.line(t)
	s.Kill()
	if _, exit := s.end(t); exit.Signal != syscall.SIGKILL || exit.String() != "signal: killed" {
		t.Errorf("%v", exit)
	}
}

func TestWarmMayWaitAndBeGivenUp(t *testing.T) {
	s, err := prepare(t, helperSpec("view"))
	if err != nil {
		t.Fatal(err)
	}
	if killed, err := s.Stop(syscall.SIGTERM); !killed || err != nil {
		t.Errorf("killed %v, %v", killed, err)
	}
	if exit, err := s.Wait(); err != nil || exit.Signal != syscall.SIGKILL {
		t.Errorf("%v, %v", exit, err)
	}
	if err := s.Go(t.Context()); err == nil {
		t.Error("a dead child went")
	}
}

// A sandbox in a sandbox takes the system calls that the default one refuses.
func TestNested(t *testing.T) {
	process := helperSpec("nested")
	out, _ := start(t, process).end(t)
	if !strings.HasPrefix(out, "error clone") {
		t.Errorf("%s", out)
	}
	process.Sandbox.Syscalls = "any"
	out, exit := start(t, process).end(t)
	var v View
	if err := json.Unmarshal([]byte(out), &v); err != nil || !exit.OK() {
		t.Fatalf("%v, %v: %s", err, exit, out)
	}
	if v.Pid != 1 || len(v.Interfaces) != 1 || v.Status["CapEff"] != "0000000000000000" {
		t.Errorf("%+v", v)
	}
}

// As the system shuts down: what still runs dies with the thread.
func TestCloseOfTheStarterEndsEverything(t *testing.T) {
	s := starterFor()
	p, err := s.Prepare(t.Context(), helperSpec("sleep"), Inputs{})
	if err == nil {
		err = p.Go(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	s.Close()
	if exit, err := p.Wait(); err != nil || exit.Signal != syscall.SIGKILL {
		t.Errorf("%v, %v", exit, err)
	}
	if _, err := s.Prepare(t.Context(), helperSpec("sleep"), Inputs{}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("%v", err)
	}
}

// Where only one id is mapped, a service is that id, also for a root.
func TestRootOfOneID(t *testing.T) {
	var v View
	out := within(t, "true", "nested")
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if v.Pid != 1 || v.UID != 0 || v.Status["CapEff"] != "0000000000000000" || v.Status["CapBnd"] != "0000000000000000" {
		t.Errorf("%+v", v)
	}
}

// A root as in a container: it may take another id, but not mount.
func TestRootWithoutMounting(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("for root")
	}
	// The service's user must reach the program itself, then.
	data, err := os.ReadFile(helperSpec().Argv[0])
	if err != nil {
		t.Fatal(err)
	}
	program := write(t, shared(t)+"/service", string(data), 0o755)
	command := exec.Command("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", program, "helper", "nested")
	out, err := command.CombinedOutput()
	if err != nil && len(out) == 0 {
		ktest.Skip(t, "setpriv: %v", err)
	}
	var v View
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if v.Pid != 1 || v.UID != sandbox.ServiceID("test", nil) {
		t.Errorf("%+v", v)
	}
}

// Once a client had to wait for a child, one is in reserve when a process has ended. It is
// the next waiting client's, and goes with the starter.
func TestReserve(t *testing.T) {
	s := starterFor()
	defer s.Close()
	once := func(goes bool) (pid int, took *child) {
		t.Helper()
		before := s.reserve.ready
		given := Inputs{}
		if goes {
			given.Client = ClientWaiting
		}
		p, err := s.Prepare(t.Context(), helperSpec("exit", "0"), given)
		if err == nil {
			err = p.Go(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		if exit, err := p.Wait(); err != nil || !exit.OK() {
			t.Errorf("%v, %v", exit, err)
		}
		_ = p.Close()
		s.reserve.working.Wait()
		return p.Pid(), before
	}
	if once(false); s.reserve.ready != nil {
		t.Error("one is in reserve, and nobody had to wait")
	}
	if once(true); s.reserve.ready == nil {
		t.Fatal("none is in reserve")
	}
	kept := s.reserve.ready
	if once(false); s.reserve.ready != kept {
		t.Error("one who does not wait took it")
	}
	for range 3 {
		if pid, took := once(true); took == nil || pid != took.pid || s.reserve.ready == nil || s.reserve.ready == took {
			t.Errorf("process %d, in reserve was %+v", pid, took)
		}
	}
	dead := s.reserve.ready
	if err := syscall.Kill(dead.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := awaitEnd(dead.pidfd, 5*time.Minute); err != nil {
		t.Fatal(err)
	}
	if pid, _ := once(true); pid == dead.pid || s.reserve.ready == nil {
		t.Error("one that was killed was taken")
	}
}

// A few descriptors are enough for a few sockets.
func TestLowLimitOfDescriptors(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	low := unix.Rlimit{Cur: lowControl / 2, Max: limit.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) }()
	for _, init := range []bool{false, true} {
		process := helperSpec("exit", "42")
		process.Sandbox.Init = init
		if _, exit := start(t, process).end(t); exit.Code != 42 {
			t.Errorf("init %v: %v", init, exit)
		}
	}
}
