package process

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"activator/internal/ktest"
	"activator/internal/spec"
)

func itoa(n int) string { return strconv.Itoa(n) }

// shared is a folder that the service's user reaches too.
func shared(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "spawn-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func write(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestRefusals(t *testing.T) {
	dir := shared(t)
	script := write(t, filepath.Join(dir, "script"), "#!/no/such/interpreter -x\n", 0o755)
	plain := write(t, filepath.Join(dir, "plain"), "text", 0o644)
	text := write(t, filepath.Join(dir, "text"), "text", 0o755)
	write(t, filepath.Join(dir, "root/bin/there"), "", 0o644)
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	dynamic, err := os.ReadFile("/usr/bin/true")
	if err != nil {
		ktest.Skip(t, "%v", err)
	}
	write(t, filepath.Join(dir, "root/bin/true"), string(dynamic), 0o755)

	for _, test := range []struct {
		name   string
		change func(*spec.Process)
		step   string
		path   string
		errno  syscall.Errno
		cure   string // part of it
	}{
		{"program missing", func(s *spec.Process) { s.Argv = []string{"/no/such"} }, "open", "/no/such", syscall.ENOENT, "does not exist"},
		{"program missing in /usr", func(s *spec.Process) { s.Argv = []string{"/usr/no/such"} }, "exec", "/usr/no/such", syscall.ENOENT, "not there inside"},
		{"program missing in PATH", func(s *spec.Process) { s.Argv = []string{"nosuch"} }, "exec", "nosuch", syscall.ENOENT, "PATH=/usr/bin:/bin"},
		{"interpreter missing", func(s *spec.Process) { s.Argv = []string{script} }, "exec", script, syscall.ENOENT, "/no/such/interpreter"},
		{"loader missing", func(s *spec.Process) { s.Argv = []string{"/bin/true"}; s.Sandbox.Root = dir + "/root" }, "exec", "/bin/true", syscall.ENOENT, "/ld-linux"},
		{"not executable", func(s *spec.Process) { s.Argv = []string{plain} }, "exec", plain, syscall.EACCES, "chmod +x"},
		{"not a program", func(s *spec.Process) { s.Argv = []string{text} }, "exec", text, syscall.ENOEXEC, "#!"},
		{"no program in the root", func(s *spec.Process) { s.Sandbox.Root = dir + "/root" }, "exec", helperSpec().Argv[0], syscall.ENOENT, "not there inside"},
		{"no root", func(s *spec.Process) { s.Sandbox.Root = dir + "/none" }, "root", dir + "/none", syscall.ENOENT, "existing folder"},
		{"root is a file", func(s *spec.Process) { s.Sandbox.Root = plain }, "root", plain, syscall.ENOTDIR, "existing folder"},
		{"no directory", func(s *spec.Process) { s.Dir = "/no/such" }, "working_directory", "/no/such", syscall.ENOENT, "inside"},
		{"a file for a directory", func(s *spec.Process) { s.Dir = "/etc/passwd" }, "working_directory", "/etc/passwd", syscall.ENOTDIR, "not a folder"},
		{"no source", func(s *spec.Process) { s.Sandbox.ReadOnly = []spec.Mount{{Host: "/no/such", Inside: "/x"}} }, "open", "/no/such", syscall.ENOENT, "host"},
		{"mount on /", func(s *spec.Process) { s.Sandbox.ReadOnly = []spec.Mount{{Host: dir, Inside: "/"}} }, "mount", "/", 0, "root"},
		{"mount in /proc", func(s *spec.Process) { s.Sandbox.Tmpfs = []string{"/proc/sys"} }, "mount", "/proc/sys", 0, "/proc"},
		{"mount in /dev", func(s *spec.Process) { s.Sandbox.Tmpfs = []string{"/dev"} }, "mount", "/dev", 0, "/dev"},
		{"mount relative", func(s *spec.Process) { s.Sandbox.Tmpfs = []string{"x"} }, "mount", "x", 0, "absolute"},
		{"mount twice", func(s *spec.Process) { s.Sandbox.Tmpfs = []string{"/x", "/x/"} }, "mount", "/x", syscall.EEXIST, "two mounts"},
		{"mount point missing", func(s *spec.Process) { s.Sandbox.Tmpfs = []string{"/usr/no-such-place"} }, "mount point", "/usr/no-such-place", syscall.ENOENT, "create it in /usr"},
		{"folder on file", func(s *spec.Process) {
			s.Sandbox.ReadOnly = []spec.Mount{{Host: dir, Inside: "/etc/passwd"}}
		}, "mount", "/etc/passwd", 0, "a folder goes on a folder"},
		{"no such user", func(s *spec.Process) { s.User = "no-such-user" }, "user", "no-such-user", 0, "no such user"},
		{"no such group", func(s *spec.Process) { s.Group = "no-such-group" }, "group", "no-such-group", 0, "no such group"},
		{"no such capability", func(s *spec.Process) { s.Sandbox.Capabilities = []string{"CAP_FLY"} }, "capability", "CAP_FLY", 0, "no such"},
		{"no such limit", func(s *spec.Process) { s.Limits = []spec.Limit{{Resource: "luck", Soft: 1, Hard: 1}} }, "limit", "luck", 0, "no such"},
		{"no such netns", func(s *spec.Process) { s.Sandbox.Network = "netns:none" }, "network", "/run/netns/none", syscall.ENOENT, "ip netns add none"},
		{"no netns", func(s *spec.Process) { s.Sandbox.Network = plain }, "network", plain, syscall.EINVAL, "network namespace"},
		{"our own netns", func(s *spec.Process) { s.Sandbox.Network = "/proc/self/ns/net" }, "network", "/proc/self/ns/net", syscall.EINVAL, `network = "host"`},
		{"a FIFO for a netns", func(s *spec.Process) { s.Sandbox.Network = fifo }, "network", fifo, syscall.EINVAL, "network namespace"},
		{"nothing to run", func(s *spec.Process) { s.Argv = nil }, "exec", "", 0, "no program"},
		{"directory outside", func(s *spec.Process) { s.Directories = []spec.Directory{{Kind: "state", Name: "../x"}} }, "directory", "../x", 0, "below"},
	} {
		for _, init := range []bool{false, true} {
			process := helperSpec("view")
			process.Sandbox.Init = init
			test.change(&process)
			if init && process.Sandbox.Root != "" {
				continue // the test binary may be dynamic; the reaper would miss its loader first
			}
			t.Run(test.name+map[bool]string{true: ", init"}[init], func(t *testing.T) {
				s, err := prepare(t, process)
				if err == nil {
					err = s.Go(t.Context())
				}
				var refusal *StepError
				if !errors.As(err, &refusal) {
					t.Fatalf("%v", err)
				}
				if refusal.Step != test.step || refusal.Path != test.path || test.errno != 0 && refusal.Errno != test.errno || !strings.Contains(refusal.Reason+"; "+refusal.Cure, test.cure) {
					t.Errorf("%#v", refusal)
				}
				checkFound(t, process, refusal)
			})
		}
	}
}

// checkFound wants that an examination finds what the start was refused.
func checkFound(t *testing.T, process spec.Process, refusal *StepError) {
	t.Helper()
	var e Examiner
	found := e.Examine(process)
	for _, one := range found {
		sameCure := one.Reason == refusal.Reason && one.Cure == refusal.Cure || process.Sandbox.Init // from inside the host is not seen
		if one.Step == refusal.Step && one.Path == refusal.Path && one.Errno == refusal.Errno && sameCure {
			return
		}
	}
	_, unknown := os.Stat("/proc/sys/fs/binfmt_misc/status") // of other formats
	if refusal.Errno == syscall.ENOEXEC && unknown != nil && len(found) == 0 {
		return // it cannot be told
	}
	t.Errorf("the start says %v, and an examination before it %v", refusal, found)
}

func TestHardLimitAboveOurs(t *testing.T) {
	process := helperSpec("view")
	process.Limits = []spec.Limit{{Resource: "nofile", Soft: 100, Hard: 1 << 19}}
	s, err := prepare(t, process)
	var refusal *StepError
	if errors.As(err, &refusal) {
		if refusal.Errno != syscall.EPERM || !strings.Contains(refusal.Cure, "CAP_SYS_RESOURCE") {
			t.Errorf("%#v", refusal)
		}
		checkFound(t, process, refusal)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Go(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v := s.view(t); v.NoFile != 1<<19 {
		t.Errorf("limit %d", v.NoFile)
	}
}

func TestPrepareEndsWithItsContext(t *testing.T) {
	s := starterFor()
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Prepare(ctx, helperSpec("view"), Inputs{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// The kernel's own refusals, made in a user namespace where the limits are ours
// to set.
func TestCauseIsNamed(t *testing.T) {
	for _, test := range []struct{ name, script, want string }{
		{"user namespaces off", "echo 0 >/proc/sys/user/max_user_namespaces", "clone: no space left on device: user namespaces are off here: sysctl -w user.max_user_namespaces="},
		{"no network namespaces", "echo 0 >/proc/sys/user/max_net_namespaces", "clone: no space left on device: net namespaces are off here: sysctl -w user.max_net_namespaces=10000"},
		{"covered /proc", "mount -n -t tmpfs none /proc/sys", "mount /proc: operation not permitted: a fresh /proc is refused because other mounts cover parts of ours (/proc/sys)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if strings.HasPrefix(test.script, "mount ") {
				findProgram(t, "mount")
			}
			out := within(t, test.script, "nested")
			if !strings.Contains(out, test.want) {
				t.Errorf("got %s, want %s", out, test.want)
			}
		})
	}
}

// within runs a helper in fresh namespaces, after script; it returns its output.
func within(t *testing.T, script string, args ...string) string {
	t.Helper()
	command := exec.Command("unshare", append([]string{"-Urmpf", "--mount-proc", "sh", "-c", script + ` && exec "$@"`, "sh", helperSpec().Argv[0], "helper"}, args...)...)
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	if err := command.Run(); err != nil && out.Len() == 0 {
		ktest.Skip(t, "unshare: %v", err)
	}
	return out.String()
}
