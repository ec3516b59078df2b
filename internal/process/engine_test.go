package process

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
	"activator/internal/sandbox"
	"activator/internal/spec"
)

// shellEngine is an engine that is a shell script.
type shellEngine struct {
	script string
	pause  *exec.Cmd // whose namespaces are entered; nil: nobody's
	ended  []bool
}

// Prepare has an ordinary user's engine enter a namespace of that user's, as podman's do:
// without one nobody but root may ask where the reaper works, which is not dumpable.
func (e *shellEngine) Prepare(context.Context) (*os.File, error) {
	if e.pause == nil {
		return nil, nil
	}
	fd, err := unix.PidfdOpen(e.pause.Process.Pid, 0)
	return os.NewFile(uintptr(fd), "pidfd"), err
}

func (e *shellEngine) Ended(inOrder bool) { e.ended = append(e.ended, inOrder) }

// startPause starts a process that stands in namespaces of its own.
func startPause(t *testing.T) *exec.Cmd {
	t.Helper()
	pause := exec.Command("sleep", "1000")
	ids := func(id int) []syscall.SysProcIDMap {
		return []syscall.SysProcIDMap{{ContainerID: id, HostID: id, Size: 1}}
	}
	pause.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL,
		UidMappings: ids(os.Getuid()), GidMappings: ids(os.Getgid())}
	if err := pause.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pause.Process.Kill(); _ = pause.Wait() })
	return pause
}

func (e *shellEngine) Command(string, []string) ([]string, sandbox.Engine, error) {
	return []string{"/bin/sh", "-c", e.script}, sandbox.Engine{Seal: true}, nil
}

func startEngine(t *testing.T, script string) (*Process, *shellEngine) {
	t.Helper()
	ktest.Filters(t)
	engine := &shellEngine{script: script}
	if os.Getuid() != 0 {
		engine.pause = startPause(t)
	}
	process := spec.Process{Name: "engine", Argv: []string{"engine"}, Env: []string{"PATH=" + os.Getenv("PATH")}}
	starter := starterFor()
	t.Cleanup(starter.Close)
	p, err := starter.Prepare(t.Context(), process, Inputs{Engine: engine})
	if err != nil {
		t.Fatal(err)
	}
	if p.EngineNamespace() == 0 {
		t.Error("no namespace to tell it by")
	}
	t.Cleanup(func() { _ = p.TakeListener().Close(); _ = p.Close() })
	if err := p.Go(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p, engine
}

// Killed, an engine takes everything with it that has gone its own way: sessions of their
// own, whose parents have ended, in several generations, with and without the engine itself.
func TestEngineKilled(t *testing.T) {
	if _, err := exec.LookPath("setsid"); err != nil {
		ktest.Skip(t, "%v", err)
	}
	for _, end := range []string{"exec sleep 1000", "exit 0"} {
		for range 10 {
			dir := t.TempDir()
			note := func(name string) string {
				return "echo $$ >" + dir + "/" + name + ".new; mv " + dir + "/" + name + ".new " + dir + "/" + name
			}
			p, engine := startEngine(t, "setsid sh -c '"+note("monitor")+`
				setsid sh -c "`+strings.ReplaceAll(note("init"), "$$", `\$\$`)+`; sleep 1000" & setsid sleep 1000 & sleep 1000' &
				while [ ! -e `+dir+"/init ]; do sleep 0.01; done; "+end)
			var pids []int
			for _, name := range []string{"monitor", "init"} {
				pids = append(pids, awaitNumber(t, filepath.Join(dir, name)))
			}
			p.Kill()
			if _, err := p.Wait(); err != nil {
				t.Error(err)
			}
			for _, pid := range pids {
				if text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat"); err == nil && !strings.Contains(string(text), ") Z ") {
					t.Errorf("%s: it outlived: %s", end, text)
				}
			}
			if len(engine.ended) != 1 || engine.ended[0] {
				t.Errorf("%s: ended %v", end, engine.ended)
			}
		}
	}
}

// awaitNumber waits for a file with a number.
func awaitNumber(t *testing.T, path string) int {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if text, err := os.ReadFile(path); err == nil {
			number, err := strconv.Atoi(strings.TrimSpace(string(text)))
			if err != nil {
				t.Fatal(err)
			}
			return number
		}
	}
	t.Fatalf("no %s", path)
	return 0
}

// Its own way it ends when the last of what it left has.
func TestEngineCleansUp(t *testing.T) {
	dir := t.TempDir()
	p, engine := startEngine(t, "sh -c 'sleep 0.3; echo >"+dir+"/clean' & exit 3")
	exit, err := p.Wait()
	if err != nil || exit.Code != 3 {
		t.Errorf("%v, %v", exit, err)
	}
	if _, err := os.Stat(dir + "/clean"); err != nil {
		t.Error(err)
	}
	if len(engine.ended) != 1 || !engine.ended[0] {
		t.Errorf("ended %v", engine.ended)
	}
}
