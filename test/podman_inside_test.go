package test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"activator/internal/ktest"
)

const insideImage = "localhost/activator-inside"

// unmask is the one option that podman's own are short of: it covers parts of /proc, and
// then the kernel refuses to mount a new one.
const unmask = "--security-opt unmask=ALL"

// The README promises "inside containers": its five lines, each cold and warm, in
// `podman run`, as root of the container and as an ordinary user of it. With podman's own
// options the activator says which one is missing, with exactly that one it works.
func TestInsidePodman(t *testing.T) {
	ktest.Filters(t)
	for _, tool := range []string{"podman", "socat", "busybox", "ldd", "unshare"} {
		if _, err := exec.LookPath(tool); err != nil {
			ktest.Skip(t, "%v: install it", err)
		}
	}
	e := newEngine(t)
	out, err := e.run("import", importable(t), insideImage)
	if err != nil {
		ktest.Skip(t, "podman import: %v: %s", err, out)
	}
	for _, user := range []string{"root", "1000"} {
		t.Run("default, user "+user, func(t *testing.T) {
			said, log := e.lines(t, user)
			if strings.Count(said, "hello\n") == 10 {
				return // a podman that covers nothing
			}
			if !strings.Contains(log, unmask) {
				t.Errorf("the log does not name %s:\n%s", unmask, log)
			}
		})
		t.Run("uncovered, user "+user, func(t *testing.T) {
			said, log := e.lines(t, user, strings.Fields(unmask)...)
			if said != strings.Repeat("hello\n", 10) {
				t.Errorf("ten lines printed %q:\n%s", said, log)
			}
		})
	}
}

// engine is podman with a store of its own, in a mount namespace with a cgroup2 and locks
// of its own: it refuses the host's where they are hybrid, and other people's.
type engine struct {
	t   *testing.T
	dir string
}

func newEngine(t *testing.T) *engine {
	t.Helper()
	e := &engine{t, folder(t)}
	t.Cleanup(func() {
		// What the container's users own only root of their namespace can remove.
		if out, err := e.inside("rm", "-rf", e.dir).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	return e
}

// inside is a command in the namespaces.
func (e *engine) inside(argv ...string) *exec.Cmd {
	const prepare = `mount -n --make-rprivate / && mount -n -t cgroup2 none /sys/fs/cgroup && mount -n -t tmpfs none /dev/shm && exec "$@"`
	words := []string{"--mount", "--cgroup"}
	if os.Getuid() != 0 {
		words = append(words, "--map-root-user", "--map-auto")
	}
	words = append(append(words, "/bin/sh", "-c", prepare, "sh"), argv...)
	ctx, cancel := context.WithTimeout(context.Background(), 2*waitTimeout)
	e.t.Cleanup(cancel)
	return exec.CommandContext(ctx, "unshare", words...)
}

func (e *engine) podman(words ...string) *exec.Cmd {
	in := func(name string) string { return filepath.Join(e.dir, name) }
	return e.inside(append([]string{"podman", "--cgroup-manager=cgroupfs", "--events-backend=none", "--storage-driver=vfs", "--root=" + in("root"),
		"--runroot=" + in("run"), "--tmpdir=" + in("tmp"), "--runtime-flag=root=" + in("runtime")}, words...)...)
}

func (e *engine) run(words ...string) (string, error) {
	out, err := e.podman(words...).CombinedOutput()
	return string(out), err
}

// lines runs the script of the image. Beside the options that are given there are those
// without which podman itself does not start on every machine.
func (e *engine) lines(t *testing.T, user string, options ...string) (said, log string) {
	t.Helper()
	words := slices.Concat([]string{"run", "--rm", "--user=" + user, "--network=none", "--cgroups=disabled", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"},
		options, []string{insideImage, "/usr/bin/sh", "/lines.sh"})
	cmd := e.podman(words...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Errorf("podman run: %v: %s", err, errs.String())
	}
	return out.String(), errs.String()
}

// importable makes an archive with the activator, echo and its configuration, and with
// socat and a shell to type the README's lines into.
func importable(t *testing.T) string {
	t.Helper()
	root := filepath.Join(folder(t), "image")
	put := func(from, to string) {
		text, err := os.ReadFile(from)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(root, to)), 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(root, to), text, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	put(program(t, "activator"), "app/bin/activator")
	put(program(t, "echo"), "app/bin/echo")
	put("../configs/echo.toml", "app/configs/echo.toml")
	for _, name := range []string{"socat", "busybox"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		put(path, "usr/bin/"+name)
		libraries, _ := exec.Command("ldd", path).Output() // of a static program it fails
		for _, file := range regexp.MustCompile(`/\S+`).FindAllString(string(libraries), -1) {
			if !strings.HasSuffix(file, ":") {
				put(file, file)
			}
		}
	}
	text := []byte(linesScript(t))
	home := filepath.Join(root, "home")
	for _, err := range []error{os.WriteFile(filepath.Join(root, "lines.sh"), text, 0o644), os.MkdirAll(filepath.Join(root, "etc"), 0o755),
		os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0::/home:/usr/bin/sh\nuser:x:1000:1000::/home:/usr/bin/sh\n"), 0o644),
		os.Symlink("busybox", filepath.Join(root, "usr/bin/sh")), os.Symlink("busybox", filepath.Join(root, "usr/bin/sleep")),
		os.Mkdir(home, 0o755), os.Chmod(home, 0o777)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	archive := root + ".tar"
	command(t, "", "tar", "-C", root, "--owner=0", "--group=0", "--numeric-owner", "-c", "-f", archive, ".")
	return archive
}

// linesScript types each line of the README twice, to an activator of its own.
func linesScript(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`(?m)^echo hello \| socat - .*$`).FindAllString(string(text), -1)
	if len(lines) != 5 {
		t.Fatalf("the README has %d lines with socat, want 5", len(lines))
	}
	script := "export HOME=/home\n"
	for _, line := range lines {
		script += fmt.Sprintf(`/app/bin/activator --config /app/configs/echo.toml &
until [ -S $HOME/echo_stream_sock ] || ! kill -0 $! 2>/dev/null; do sleep 0.02; done
%[1]s
%[1]s
kill -TERM $! 2>/dev/null && wait $!
`, line)
	}
	return script + "exit 0\n"
}
