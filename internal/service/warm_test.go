package service

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"activator/internal/spec"
)

func warmed(service *spec.Service) { service.Warm = true }

var pidAttr = regexp.MustCompile(` pid=(\d+)`)

// pid waits for a line and returns the process it names.
func (s *stand) pid(words ...string) int {
	s.t.Helper()
	found := pidAttr.FindStringSubmatch(s.await(words...))
	if found == nil {
		s.t.Fatalf("a line with %q names no process", words)
	}
	pid, _ := strconv.Atoi(found[1])
	return pid
}

func TestWarm(t *testing.T) {
	s := up(t, "once", warmed)
	for range 20 {
		stood := s.pid("state=warm ")
		s.answered(s.ask())
		if ran := s.pid("state=running"); ran != stood {
			t.Errorf("process %d ran, and %d stood", ran, stood)
		}
	}
	s.await("state=warm ")
	s.stop()
	s.await("state=ended")
}

// A client that comes while the sandbox is being built gets it; whatever the
// moment, he is served.
func TestWarmAtAnyMoment(t *testing.T) {
	s := up(t, "once", warmed)
	taken := map[string]bool{}
	for round := 0; round < 50 || len(taken) < 2; round++ {
		if round == 500 {
			t.Fatalf("in %d rounds clients came only in %v", round, taken)
		}
		// The moment is what is tested; on a slow machine they are farther apart.
		time.Sleep(time.Duration(rand.IntN(8000*(1+round/25))) * time.Microsecond)
		s.answered(s.ask())
		var before, line string
		for !strings.Contains(line, "state=starting") {
			before, line = line, s.await("level=", "state=")
		}
		for _, state := range []string{"warming", "warm"} {
			if strings.Contains(before, "state="+state+" ") || strings.HasSuffix(before, "state="+state) {
				taken[state] = true
			}
		}
	}
}

// The end comes at any time, too.
func TestWarmEnds(t *testing.T) {
	for range 20 {
		s := up(t, "serve", warmed)
		time.Sleep(time.Duration(rand.IntN(8000)) * time.Microsecond) // the moment is what is tested
		s.stop()
		s.await("state=ended")
	}
}

func TestWarmIsReplaced(t *testing.T) {
	s := up(t, "serve", warmed)
	first := s.pid("state=warm ")
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.await("level=WARN", "not kept ready", "signal: killed")
	second := s.pid("state=warm ")
	begin := time.Now()
	if err := syscall.Kill(second, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.await("level=DEBUG", "not kept ready", "signal: killed") // it is said once
	if third := s.pid("state=warm "); third == first || third == second {
		t.Errorf("processes %d, %d, %d", first, second, third)
	}
	if took := time.Since(begin); took < 2*warmDelay {
		t.Errorf("the second one was replaced after %v, the delay does not grow", took)
	}
	s.answered(s.ask())
}

// What cannot be built for nobody is not tried over and over, and costs the next
// client nothing but the time of a start.
func TestWarmFails(t *testing.T) {
	folder := t.TempDir()
	s := up(t, "serve", func(service *spec.Service) {
		service.Warm = true
		service.Process.Sandbox.ReadOnly = []spec.Mount{{Host: folder + "/later", Inside: "/later"}}
	})
	s.await("level=WARN", "not kept ready", "later", "no such file")
	s.await("state=listening", "level=DEBUG")
	if err := os.Mkdir(folder+"/later", 0o755); err != nil {
		t.Fatal(err)
	}
	s.answered(s.ask())
}

// script is a program that answers with its own second line, run by this binary.
func script(t *testing.T, path, answer string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", fmt.Appendf(nil, "#!%s service\n%s", self, answer), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// The program's file is replaced while its sandbox stands, as a package manager
// does it, and written to; as the only file that is mounted, and in a folder.
func TestWarmProgramReplaced(t *testing.T) {
	for _, mounted := range []string{"file", "folder"} {
		t.Run(mounted, func(t *testing.T) {
			folder, err := os.MkdirTemp("", "warm")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(folder) })
			if err := os.Chmod(folder, 0o755); err != nil {
				t.Fatal(err)
			}
			replaceProgram(t, folder, mounted == "folder")
		})
	}
}

func replaceProgram(t *testing.T, folder string, whole bool) {
	program := filepath.Join(folder, "program")
	script(t, program, "pid 1\n")
	s := up(t, "", func(service *spec.Service) {
		self := service.Process.Argv[0]
		service.Warm, service.Process.Argv = true, []string{program}
		service.Process.Sandbox.ReadOnly = []spec.Mount{{Host: self, Inside: self}}
		if whole {
			service.Process.Sandbox.ReadOnly = append(service.Process.Sandbox.ReadOnly, spec.Mount{Host: folder, Inside: folder})
		}
	})
	says := func(want string) {
		t.Helper()
		if got := read(s.ask()); got != want {
			t.Errorf("the program says %q, want %q", got, want)
		}
	}
	s.await("state=warm ")
	says("pid 1\n")
	for i := range 3 {
		stood := s.pid("state=warm ")
		script(t, program, fmt.Sprint("replaced ", i))
		says(fmt.Sprint("replaced ", i))
		if ran := s.pid("state=running"); (ran == stood) != whole {
			t.Errorf("process %d stood, and %d ran", stood, ran)
		}
	}
	s.await("state=warm ")
	f, err := os.OpenFile(program, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.WriteString(" and changed")
	f.Close()
	says("replaced 2 and changed")
}

// A log that was rotated is not written to.
func TestWarmOutputReplaced(t *testing.T) {
	folder := t.TempDir()
	out := filepath.Join(folder, "out")
	s := up(t, "say", func(service *spec.Service) { service.Warm, service.Stdout = true, out })
	s.await("state=warm ")
	if err := os.Rename(out, out+".1"); err != nil {
		t.Fatal(err)
	}
	s.answered(s.ask())
	s.await("state=warm ")
	if old, err := os.ReadFile(out + ".1"); err != nil || len(old) > 0 {
		t.Errorf("in the old log: %q, %v", old, err)
	}
	if text, err := os.ReadFile(out); err != nil || string(text) != "said\n" {
		t.Errorf("in the new log: %q, %v", text, err)
	}
}

// The socket is bound anew while a sandbox stands that has the old one.
func TestWarmBoundAnew(t *testing.T) {
	s := up(t, "serve", warmed)
	first := s.pid("state=warm ")
	takeAway(t, filepath.Dir(s.path))
	s.await("node healed", "bound anew")
	if second := s.pid("state=warm "); second == first {
		t.Error("the sandbox that has the old socket is kept")
	}
	s.answered(s.ask())
}
