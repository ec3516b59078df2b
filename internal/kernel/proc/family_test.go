package proc

import (
	"bufio"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// All of a pid namespace are found from each of them, and of our own nobody is asked for.
func TestListFamily(t *testing.T) {
	if family := ListFamily(os.Getpid(), 10); family != nil {
		t.Errorf("of our own namespace: %v", family)
	}
	c := exec.Command("/bin/sh", "-c", "sleep 1000 & sleep 1000 & echo up; wait")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}}
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	}()
	if line, err := bufio.NewReader(out).ReadString('\n'); strings.TrimSpace(line) != "up" {
		t.Fatalf("%q, %v", line, err)
	}
	whole := ListFamily(c.Process.Pid, 10)
	if len(whole) != 3 || whole[0] != c.Process.Pid {
		t.Fatalf("%v, not three from %d on", whole, c.Process.Pid)
	}
	for _, pid := range whole {
		if family := ListFamily(pid, 10); !slices.Equal(family, whole) {
			t.Errorf("from %d: %v, not %v", pid, family, whole)
		}
	}
	if family := ListFamily(whole[1], 2); !slices.Equal(family, whole[:2]) {
		t.Errorf("two at the most from %d: %v of %v", whole[1], family, whole)
	}
	if family := ListFamily(1<<30, 10); family != nil {
		t.Errorf("of nobody: %v", family)
	}
}
