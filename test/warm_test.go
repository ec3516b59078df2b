package test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// warmMemory is what a sandbox that waits may take, in KiB of PSS. It has our own
// memory, in which is what it will do: so it is measured as what we take more.
const warmMemory = 256

// A hundred sandboxes stand while no client is there: nothing wakes up, in none of
// them either, and none takes much memory. One end of the activator ends all.
func TestWarmSandboxes(t *testing.T) {
	const services = 100
	dir := folder(t)
	for i := range services {
		configureIn(t, dir, fmt.Sprintf("service%d", i),
			fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/%d\"]\n[service]\nexec = [\"ECHO\"]\nidle_timeout = \"1s\"\n", dir, i))
	}
	begin := time.Now()
	a := activate(t, "--config", dir, "--log-level", "debug")
	t.Logf("ready after %v", time.Since(begin).Round(time.Millisecond))
	a.waitN(services, "state=warm ")
	t.Logf("%d sandboxes stand after %v", services, time.Since(begin).Round(time.Millisecond))
	sandboxes := sandboxesOf(t, a)
	if len(sandboxes) != services {
		t.Fatalf("%d sandboxes stand, want %d", len(sandboxes), services)
	}
	quiet(t, append(sandboxes, a.cmd.Process.Pid, guardOf(t, a.cmd.Process.Pid))...)
	warm := pssOf(t, a.cmd.Process.Pid)
	each := (warm - pssOfCold(t, services)) / services
	t.Logf("a sandbox takes %d KiB, the activator with them %d", each, warm)
	if each > warmMemory {
		t.Errorf("a sandbox takes %d KiB, at most %d are allowed for", each, warmMemory)
	}
	for _, i := range []int{0, 50, 99} {
		answered(t, "one that was warm", fmt.Sprintf("unix:%s/%d", dir, i))
	}
	a.stop()
	for _, pid := range sandboxes {
		gone(t, pid)
	}
}

// pssOfCold is the memory of an activator with so many services and no sandboxes.
func pssOfCold(t *testing.T, services int) int {
	dir := folder(t)
	for i := range services {
		configureIn(t, dir, fmt.Sprintf("service%d", i),
			fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/%d\"]\n[service]\nexec = [\"ECHO\"]\nwarm = false\n", dir, i))
	}
	a := activate(t, "--config", dir, "--log-level", "debug")
	defer a.stop()
	quiet(t, a.cmd.Process.Pid)
	return pssOf(t, a.cmd.Process.Pid)
}

// A sandbox that waits has our memory, and does not outlive us in it.
func TestWarmSandboxAlone(t *testing.T) {
	dir := folder(t)
	a := activate(t, "--log-level", "debug", "--config", configureIn(t, dir, "alone",
		fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/s\"]\n[service]\nexec = [\"ECHO\"]\n", dir)))
	pid, _ := strconv.Atoi(field(a.wait("state=warm "), "pid"))
	if err := a.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	gone(t, pid)
}

// A reload builds the sandboxes of changed services anew, and leaves the others.
func TestReloadRebuildsWarm(t *testing.T) {
	dir := folder(t)
	text := "[[socket]]\nlisten = [\"unix://%s/%s\"]\n[service]\nexec = [\"ECHO\"]\nenvironment = [\"WORD=%s\"]\n"
	configureIn(t, dir, "same", fmt.Sprintf(text, dir, "same", "old"))
	configureIn(t, dir, "other", fmt.Sprintf(text, dir, "other", "old"))
	a := activate(t, "--log-level", "debug", "--config", dir)
	same := field(a.wait("state=warm ", "service=same"), "pid")
	other, _ := strconv.Atoi(field(a.wait("state=warm ", "service=other"), "pid"))
	configureIn(t, dir, "other", fmt.Sprintf(text, dir, "other", "new"))
	if err := a.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	a.wait("configuration reloaded")
	gone(t, other)
	again := field(a.waitN(2, "state=warm ", "service=other"), "pid")
	for name, pid := range map[string]string{"same": same, "other": again} {
		answered(t, name, fmt.Sprintf("unix:%s/%s", dir, name))
		if ran := field(a.wait("state=running", "service="+name), "pid"); ran != pid {
			t.Errorf("%s: process %s ran, and %s stood", name, ran, pid)
		}
	}
	pid := field(a.wait("state=running", "service=other"), "pid")
	env, err := os.ReadFile("/proc/" + pid + "/environ")
	if err == nil && !bytes.Contains(env, []byte("WORD=new\x00")) {
		t.Errorf("the environment is %q", env)
	}
}

// sandboxesOf lists the sandboxes of an activator that wait.
func sandboxesOf(t *testing.T, a *activator) (pids []int) {
	t.Helper()
	for _, child := range childrenOf(a.cmd.Process.Pid) {
		name, _ := os.ReadFile("/proc/" + child + "/comm")
		if string(name) == "activator-stage\n" {
			pid, _ := strconv.Atoi(child)
			pids = append(pids, pid)
		}
	}
	return pids
}

// pssOf is the memory of a process in KiB, what it shares counted in parts;
// proc_pid_smaps(5).
func pssOf(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "smaps_rollup"))
	if err != nil {
		t.Skipf("smaps_rollup of a process with capabilities: %v", err)
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, "Pss:"); found {
			n, _ := strconv.Atoi(strings.Fields(value)[0])
			return n
		}
	}
	t.Fatalf("no Pss in %s", text)
	return 0
}
