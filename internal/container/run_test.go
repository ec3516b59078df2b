package container

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"activator/internal/ktest"
)

const image = "localhost/activator-test-busybox"

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
	// The one of the last time would stay without a name.
	_, _ = ask(context.Background(), "podman", "image", "rm", "--force", image)
	text, _ := json.Marshal(plan{Engine: []string{"podman", "import", "--quiet", "-", image}})
	cmd := exec.Command(self, stageLaunch, string(text))
	cmd.Env, cmd.Stdin = Environ(), &archive
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("podman import: %w: %s", err, out)
	}
	return nil
})

// prepare returns the launcher's command line for a shell script in a container.
func prepare(t *testing.T, script string, change func(*Spec)) []string {
	ktest.Filters(t)
	t.Helper()
	if _, err := exec.LookPath("podman"); err != nil {
		ktest.Skip(t, "%v", err)
	}
	if err := busybox(); err != nil {
		ktest.Skip(t, "%v", err)
	}
	s := Spec{Name: "test", Engine: "podman", Image: image, Umask: 0o22, Command: []string{"/bin/busybox", "sh", "-c", script}}
	if change != nil {
		change(&s)
	}
	store, err := Resolve(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	argv, err := s.Argv(store)
	if err != nil {
		t.Fatal(err)
	}
	return argv
}

// start starts the launcher as spawn would.
func start(t *testing.T, argv []string, sockets ...*os.File) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(Environ(), fmt.Sprintf("LISTEN_FDS=%d", len(sockets)), "LISTEN_PID=1234", "GORACE=atexit_sleep_ms=0")
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = &out, &out, sockets
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, &out
}

func output(t *testing.T, argv []string) string {
	t.Helper()
	cmd, out := start(t, argv)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return out.String()
}

func TestInside(t *testing.T) {
	got := output(t, prepare(t, `
		busybox ip -o addr | busybox awk '{print $2, $3, $4}'
		busybox ip route; busybox ip -6 route show table main
		busybox grep -E '^(NoNewPrivs|CapEff|CapBnd):' /proc/self/status
		echo pid $$; busybox touch /forbidden || echo read-only
		busybox hostname; umask; busybox wget -q -O - http://192.0.2.1/ || echo unreachable`, nil))
	const want = "lo inet 127.0.0.1/8\nlo inet6 ::1/128\n" +
		"CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\n" +
		"pid 1\ntouch: /forbidden: Read-only file system\nread-only\n" +
		"test\n0022\nwget: can't connect to remote host (192.0.2.1): Network is unreachable\nunreachable\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// The contrast: what the network table opens is open.
func TestHostNetwork(t *testing.T) {
	ours, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	got := output(t, prepare(t, "busybox ls /sys/class/net | busybox wc -l; busybox cat /proc/net/dev", func(s *Spec) { s.Network = "host" }))
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
	argv := prepare(t, `
		echo "$LISTEN_FDS $LISTEN_PID $LISTEN_FDNAMES $$ $A" >&3
		busybox sleep 1 # until podman passes on signals: before, one ends it
		echo second >&4
		trap "exit 7" TERM; while :; do busybox sleep 0.1; done`,
		func(s *Spec) { s.FDNames, s.Env = []string{"one", "two"}, []string{"A=b c"} })
	cmd, out := start(t, argv, theirs...)
	for i, want := range []string{"2 1 one:two 1 b c\n", "second\n"} {
		theirs[i].Close()
		got, err := bufio.NewReader(ours[i]).ReadString('\n')
		if err != nil || got != want {
			t.Errorf("%d: got %q, %v, want %q; %s", i, got, err, want, out)
		}
		ours[i].Close()
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 7 {
		t.Errorf("exit status %d, want the container's 7: %s", code, out)
	}
	clean(t)
}

func TestNotify(t *testing.T) {
	argv := prepare(t, `busybox ls -l $NOTIFY_SOCKET; busybox cat /proc/net/unix | busybox wc -l`, nil)
	folder := t.TempDir()
	path := filepath.Join(folder, "notify")
	socket, err := net.ListenPacket("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	var out bytes.Buffer
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(Environ(), "NOTIFY_SOCKET="+path)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, &out)
	}
	if got := out.String(); !strings.HasPrefix(got, "srwxrwxrwx") || !strings.Contains(got, notifyInside) {
		t.Errorf("got %q", got)
	}
}

// Killed at any moment, the launcher leaves nothing that runs, is mounted or
// hinders the next start.
func TestKilled(t *testing.T) {
	host := ktest.MountAlone(t, "")
	defer host.Close()
	argv := prepare(t, `echo up; exec busybox sleep 1000`, nil)
	before := host.List(t)
	for i := range 12 {
		cmd, out := start(t, argv)
		// Not an assertion about time: spread over a start and the run after it.
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		clean(t)
		if text := out.String(); text != "" && text != "up\n" {
			t.Errorf("start %d: %s", i, text)
		}
	}
	if now := host.List(t); !slices.Equal(now, before) {
		t.Errorf("mounts before\n%q\nafter\n%q", before, now)
	}
	if got := output(t, prepare(t, "echo good", nil)); got != "good\n" {
		t.Errorf("the next start says %q", got)
	}
	names, err := ask(context.Background(), "podman", "ps", "--all", "--external", "--format", "{{.Names}}")
	if err != nil || strings.Contains(names, "activator-") {
		t.Errorf("containers left: %q, %v", names, err)
	}
}

// clean waits until no process of the container's run is left, and fails if one
// stays.
func clean(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Minute)
	for {
		left := running("activator-test")
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left behind: %q", left)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// running lists the command lines that hold word: launcher, engine, monitor and
// runtime are all told the container's name.
func running(word string) []string {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var found []string
	for _, path := range paths {
		if text, err := os.ReadFile(path); err == nil && bytes.Contains(text, []byte(word)) && !bytes.Contains(text, []byte("podman\x00import")) {
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
	_, err := Resolve(ctx, Spec{Name: "x", Engine: "/nowhere/podman", Image: "x"})
	if err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("engine by path: %v", err)
	}
	_, err = Resolve(ctx, Spec{Name: "x", Engine: "podman", Image: "localhost/not-there"})
	if err == nil || !strings.Contains(err.Error(), "podman pull localhost/not-there") {
		t.Errorf("image: %v", err)
	}
	_, err = Resolve(ctx, Spec{Name: "x", Engine: "podman", Image: "localhost/activator-echo-not-there"})
	if err == nil || !strings.Contains(err.Error(), "make image") {
		t.Errorf("our image: %v", err)
	}
	t.Setenv("PATH", "/nowhere")
	_, err = Resolve(ctx, Spec{Name: "x", Engine: "podman", Image: "x"})
	if err == nil || !strings.Contains(err.Error(), "apt-get install podman") {
		t.Errorf("engine: %v", err)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Errorf("started something: %v", err)
	}
}
