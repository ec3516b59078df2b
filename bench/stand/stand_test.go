package stand

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// world has two programs that are as good as any.
func world(t *testing.T) *World {
	t.Helper()
	bin := t.TempDir()
	for _, name := range []string{"activator", "echo"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w, err := Open(t.Context(), bin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

func TestProcess(t *testing.T) {
	w := world(t)
	p, err := w.Start(Self, []string{"WORD=three"}, "sh", "-c", "echo one; echo two words >&2; echo $WORD; exec sleep 60")
	if err != nil {
		t.Fatal(err)
	}
	for _, words := range [][]string{{"one"}, {"words", "two"}, {"three"}} {
		if line, err := p.Next(words...); err != nil {
			t.Errorf("%q: %q, %v", words, line, err)
		}
	}
	if _, err := PSS(p.PID()); err != nil {
		t.Error(err)
	}
	if _, err := Switches(p.PID()); err != nil {
		t.Error(err)
	}
	if len(Children(os.Getpid())) == 0 {
		t.Error("a child is not seen")
	}
	p.Stop()
	p.Stop()
	if _, err := p.Next("one"); err == nil {
		t.Error("a line was found twice")
	}
	if _, err := Switches(p.PID()); err == nil {
		t.Error("who is gone has context switches")
	}
}

func TestNextSaysWhatWasThere(t *testing.T) {
	p, err := world(t).Start(Self, nil, "sh", "-c", "echo no such option")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Next("ready"); err == nil || !strings.Contains(err.Error(), "no such option") {
		t.Errorf("Next: %v", err)
	}
}

func TestMissingProgram(t *testing.T) {
	if _, err := world(t).Start(Self, nil, "no-such-program"); err == nil || !strings.Contains(err.Error(), "not installed") {
		t.Errorf("Start: %v", err)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	w := world(t)
	p, err := w.Start(Self, nil, "sleep", "60")
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	if !p.ended() {
		t.Error("a process is left")
	}
	if _, err := os.Stat(w.Dir); !os.IsNotExist(err) {
		t.Errorf("the folder is left: %v", err)
	}
}

func TestCheckKnowsWhatThisBuildDoesNot(t *testing.T) {
	w := world(t)
	for text, want := range map[string]string{
		"exit 0": "",
		"echo 'service.handover: \"proxy\" is not supported yet'; exit 2": ErrNotInThisBuild.Error(),
		"echo wrong; exit 2": "activator check: wrong",
	} {
		if err := os.WriteFile(w.Program("activator"), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		got := ""
		if err := w.check(w.Dir); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

func TestPorts(t *testing.T) {
	first := Ports(3)
	if next := Ports(2); next < first+3 {
		t.Errorf("Ports: %d behind %d", next, first)
	}
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if free(l.Addr().(*net.TCPAddr).Port) {
		t.Error("a port that is taken is free")
	}
}

func TestClients(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for _, answer := range []string{"x", "y", ""} {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1))
			_, _ = c.Write([]byte(answer))
			c.Close()
		}
	}()
	port := l.Addr().(*net.TCPAddr).Port
	if took, err := FirstByte(port); err != nil || took <= 0 {
		t.Errorf("FirstByte: %v, %v", took, err)
	}
	for range 2 {
		if _, err := FirstByte(port); err == nil {
			t.Error("a wrong answer or none is taken for an echo")
		}
	}
}

func TestMachineSaysSomething(t *testing.T) {
	for _, f := range Machine() {
		if f.Name == "" || f.Value == "" || f.Value == "?" {
			t.Errorf("%+v", f)
		}
	}
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip(err)
	}
	if line := firstLine("/bin/sh", "-c", "echo; echo one; echo two; exit 1"); line != "one" {
		t.Errorf("firstLine: %q", line)
	}
}

func TestOn(t *testing.T) {
	for processor := range 2 {
		var got string
		err := On(processor, func() (err error) {
			got, err = Output(false, "grep", "Cpus_allowed_list", "/proc/self/status")
			return err
		})
		_, list, _ := strings.Cut(strings.TrimSpace(got), "\t")
		if one := !strings.ContainsAny(list, ",-"); err != nil || !one && runtime.NumCPU() > processor {
			t.Errorf("on processor %d: %q, %v", processor, got, err)
		}
	}
	if got, err := Output(false, "nproc"); err != nil || strings.TrimSpace(got) != fmt.Sprint(runtime.NumCPU()) {
		t.Errorf("afterwards %q of %d, %v", got, runtime.NumCPU(), err)
	}
}

func TestCPU(t *testing.T) {
	before := CPU(os.Getpid())
	for begin := time.Now(); time.Since(begin) < 30*time.Millisecond; {
	}
	if used := CPU(os.Getpid()) - before; before == 0 || used < 5*time.Millisecond {
		t.Errorf("%v, and %v more", before, used)
	}
}

func TestTimeCalls(t *testing.T) {
	for _, call := range Calls {
		if took, err := timeCalls(call.Key); err != nil || took < 10 || took > 1e6 {
			t.Errorf("%s: %v ns, %v", call.Key, took, err)
		}
	}
	if _, err := timeCalls("nothing"); err == nil {
		t.Error("an unknown call was timed")
	}
}
