package test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// blocks are the fenced blocks of README.md in one language.
func blocks(t *testing.T, language string) []string {
	t.Helper()
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for i, part := range strings.Split(string(text), "```") {
		if head, body, _ := strings.Cut(part, "\n"); i%2 == 1 && head == language {
			found = append(found, body)
		}
	}
	return found
}

// The first screen of the README, as a stranger types it: the one command, and
// the five lines, cold and warm. What make builds is there already.
func TestReadmeFirstScreen(t *testing.T) {
	sh := blocks(t, "sh")
	if len(sh) != 3 || !strings.HasPrefix(sh[0], "make run ") || strings.TrimSpace(sh[2]) != "make test" {
		t.Fatalf("the first screen has other commands than this test knows: %q", sh)
	}
	five := strings.Split(strings.TrimSpace(sh[1]), "\n")
	if len(five) != 5 {
		t.Fatalf("not five lines: %q", five)
	}
	onPath(t, "make", "socat")
	home := folder(t)
	logs := makeRun(t, home)
	for range 2 {
		for _, line := range five {
			if got := shell(t, home, line); got != "hello\n" {
				t.Errorf("%s printed %q", line, got)
			}
		}
	}
	if n := logs.count("state=running"); n != 1 {
		t.Errorf("%d starts, want one", n)
	}
}

// makeRun types `make run`, and Ctrl-C in the end.
func makeRun(t *testing.T, home string) *lines {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	// With GO=true nothing is built: the user of the tests may not have the modules.
	cmd := exec.Command("make", "run", "GO=true")
	cmd.Dir, cmd.Stdout, cmd.Stderr = "..", w, w
	cmd.Env = append(os.Environ(), "HOME="+home)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	logs, ended := newLines(), make(chan struct{})
	go func() {
		defer close(ended)
		logs.read(r)
		r.Close()
		_ = cmd.Wait() // make's own way to say that it was interrupted
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGINT)
		<-ended
		if left, _ := os.ReadDir(home); len(left) > 0 {
			t.Errorf("left behind in the home: %v", left)
		}
		if t.Failed() {
			t.Log(tail(logs.all(), 40))
		}
	})
	if _, ok := logs.wait(1, "activator ready"); !ok {
		t.Fatal("make run does not start the activator")
	}
	return logs
}

func shell(t *testing.T, home, line string) string {
	t.Helper()
	cmd := exec.Command("sh", "-c", line)
	cmd.Env = append(os.Environ(), "HOME="+home)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Errorf("%s: %v: %s", line, err, errs.String())
	}
	return out.String()
}

func TestDemo(t *testing.T) {
	onPath(t, "socat")
	cmd := exec.Command("sh", "test/demo.sh")
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("All as told.")) {
		t.Errorf("the demo: %v\n%s", err, out)
	}
}

// What the README shows of the configuration is what the program says.
func TestReadmeConfigurations(t *testing.T) {
	toml := blocks(t, "toml")
	if len(toml) != 7 {
		t.Fatalf("%d configurations in the README", len(toml))
	}
	echo, err := os.ReadFile("../configs/echo.toml")
	if err != nil {
		t.Fatal(err)
	}
	if meaning(toml[0]) != meaning(string(echo)) {
		t.Errorf("configs/echo.toml is not what the README shows:\n%s", echo)
	}
	daemon, err := os.ReadFile("../configs/git-daemon.toml")
	if err != nil {
		t.Fatal(err)
	}
	if meaning(toml[3]) != meaning(string(daemon)) {
		t.Errorf("configs/git-daemon.toml is not what the README shows:\n%s", daemon)
	}
	podman, err := os.ReadFile("../configs/echo-podman.toml")
	if err != nil {
		t.Fatal(err)
	}
	if meaning(toml[4]) != meaning(string(podman)) {
		t.Errorf("configs/echo-podman.toml is not what the README shows:\n%s", podman)
	}
	dir := folder(t)
	for _, text := range append(toml[1:5:5], toml[6]) {
		good := filepath.Join(dir, "app.toml")
		if err := os.WriteFile(good, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		command(t, "", program(t, "activator"), "check", "--offline", "--config", good)
	}
	if err := os.WriteFile(filepath.Join(dir, "web.toml"), []byte(toml[5]), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program(t, "activator"), "check", "--config", "web.toml")
	cmd.Dir = dir
	out, _ := cmd.CombinedOutput() // the exit code is compared below
	if !slices.Contains(blocks(t, ""), string(out)) {
		t.Errorf("activator check says\n%s\nand the README something else", out)
	}
	if code := cmd.ProcessState.ExitCode(); code != 2 {
		t.Errorf("exit code %d, want 2", code)
	}
}

// meaning is a configuration without comments and empty lines.
func meaning(toml string) string {
	var b strings.Builder
	for line := range strings.Lines(toml) {
		if s := strings.TrimSpace(line); s != "" && !strings.HasPrefix(s, "#") {
			b.WriteString(s + "\n")
		}
	}
	return b.String()
}
