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

	"activator/internal/ktest"
)

// A thousand services of five sockets each stand in one activator, and while
// no client comes nothing wakes up: not one context switch in ten seconds, of the
// activator and of its guard.
func TestThousandIdleServices(t *testing.T) {
	const services = 1000
	dir := folder(t)
	for i := range services {
		var b bytes.Buffer
		fmt.Fprintf(&b, "[[socket]]\nlisten = [")
		for n := range 5 {
			fmt.Fprintf(&b, "\"unix://%s/s%d.%d\", ", dir, i, n)
		}
		fmt.Fprintf(&b, "]\n[service]\nexec = [\"ECHO\"]\nwarm = false\n")
		configureIn(t, dir, fmt.Sprintf("service%d", i), b.String())
	}
	begin := time.Now()
	a := activate(t, "--config", dir)
	t.Logf("%d services with %d sockets are ready after %v", services, 5*services, time.Since(begin).Round(time.Millisecond))
	a.waitN(services, "state=listening")
	if a.log.count("nodes cannot be watched") > 0 {
		ktest.Skip(t, "there is no instance of inotify left: a timer looks at the nodes, and wakes up")
	}
	quiet(t, a.cmd.Process.Pid, guardOf(t, a.cmd.Process.Pid))
	// And each of them answers.
	for _, i := range []int{0, 499, 999} {
		answered(t, "one of a thousand", fmt.Sprintf("unix:%s/s%d.4", dir, i))
	}
}

// quiet wants ten seconds without a single context switch. The collector may have
// something left to do after the start, so there are three tries: whatever wakes
// up regularly is in each of them.
func quiet(t *testing.T, pids ...int) {
	t.Helper()
	var seen []int
	for range 3 {
		settle(t, pids...)
		before := switches(t, pids...)
		time.Sleep(10 * time.Second)
		after := switches(t, pids...)
		if after == before {
			return
		}
		seen = append(seen, after-before)
	}
	t.Errorf("context switches in 10 idle seconds, three times: %v", seen)
}

// switches sums the context switches of all threads of processes.
func switches(t *testing.T, pids ...int) int {
	t.Helper()
	sum := 0
	for _, pid := range pids {
		n := switchesOf(t, pid)
		if n == 0 {
			t.Fatalf("no context switches of %d: is it there?", pid)
		}
		sum += n
	}
	return sum
}

func switchesOf(t *testing.T, pid int) int {
	t.Helper()
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	sum := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread is gone
		}
		for line := range strings.Lines(string(text)) {
			if key, value, _ := strings.Cut(line, ":"); strings.HasSuffix(key, "ctxt_switches") {
				n, _ := strconv.Atoi(strings.TrimSpace(value))
				sum += n
			}
		}
	}
	return sum
}

// settle waits until processes have been quiet for a second: the runtime's
// collector ends its work some time after the last allocation.
func settle(t *testing.T, pids ...int) {
	t.Helper()
	deadline := time.Now().Add(waitTimeout)
	for last := -1; ; {
		now := switches(t, pids...)
		if now == last {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the activator does not come to rest")
		}
		last = now
		time.Sleep(time.Second)
	}
}

// After a thousand activations the activator holds what it held before.
func TestNothingIsLeftOfAThousandActivations(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	sock := dir + "/s"
	a := activate(t, "--config", configureIn(t, dir, "echo",
		fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s\"]\n[service]\nexec = [\"ECHO\", \"--exit-after\", \"1\"]\n%s", sock, quick)))
	pid := a.cmd.Process.Pid
	activateTimes(t, a, sock, 0, 20)
	guard := guardOf(t, pid)
	done := haveSpare(t, a, sock, 20)
	settle(t, pid)
	fds, threads := fdsOf(t, pid), threadsOf(t, pid)
	activateTimes(t, a, sock, done, 1000)
	settle(t, pid)
	if now := fdsOf(t, pid); now != fds {
		t.Errorf("descriptors before:\n%s\nand after a thousand activations:\n%s", fds, now)
	}
	if now := threadsOf(t, pid); now > threads+2 { // the runtime may need one more for a burst
		t.Errorf("%d threads before, %d after", threads, now)
	}
	if left := childrenOf(pid); len(left) != 3 { // the next sandbox and the child in reserve, too
		t.Errorf("children left beside %d: %v", guard, left)
	}
	if files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", guard)); len(files) > 100 { // it forgets now and then
		t.Errorf("the guard has %d descriptors", len(files))
	}
}

// haveSpare activates a service whose next sandbox is gone, until the client has had to
// wait for a new one, and so a child in reserve stays for the rest of the activator's life.
func haveSpare(t *testing.T, a *activator, sock string, from int) (done int) {
	t.Helper()
	pid := a.cmd.Process.Pid
	for done = from; done < from+100; done++ {
		settle(t, pid)
		left := childrenOf(pid)
		if len(left) == 3 {
			return done
		}
		for _, child := range left {
			if n, _ := strconv.Atoi(child); n != guardOf(t, pid) {
				_ = syscall.Kill(n, syscall.SIGKILL)
				gone(t, n)
			}
		}
		activateTimes(t, a, sock, done, done+1)
	}
	t.Fatalf("no child in reserve in %d activations", done-from)
	return 0
}

func activateTimes(t *testing.T, a *activator, sock string, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if err := ask("unix", sock, i); err != nil {
			t.Fatal(err)
		}
		a.waitN(i+2, "state=listening")
	}
}

// fdsOf lists what kinds of descriptors a process holds, and how many of each.
func fdsOf(t *testing.T, pid int) string {
	t.Helper()
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	kinds := make(map[string]int)
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil {
			kind, _, _ := strings.Cut(target, ":[")
			kinds[kind]++
		}
	}
	return fmt.Sprint(kinds) // sorted by key
}

func threadsOf(t *testing.T, pid int) int {
	t.Helper()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(tasks)
}

func childrenOf(pid int) []string {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	var found []string
	for _, f := range files {
		text, _ := os.ReadFile(f)
		found = append(found, strings.Fields(string(text))...)
	}
	return found
}

// guardOf is the pid of an activator's guard.
func guardOf(t *testing.T, pid int) int {
	t.Helper()
	for _, child := range childrenOf(pid) {
		line, _ := os.ReadFile("/proc/" + child + "/cmdline")
		if string(line) == "activator-guard\x00" {
			n, _ := strconv.Atoi(child)
			return n
		}
	}
	t.Fatalf("%d has no guard", pid)
	return 0
}
