package test

import (
	"fmt"
	"net"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// shortOf runs an activator with one service in a shell that takes something away
// first, asks the service once, and returns whether it was answered and what was said.
func shortOf(t *testing.T, dir string, shell ...string) (answered bool, text string) {
	t.Helper()
	config := configureIn(t, dir, "echo", fmt.Sprintf(
		"[[socket]]\nlisten = [\"unix://%s/s\"]\n[service]\nexec = [\"ECHO\"]\nrestart_delay = \"1h\"\nrestart_max_delay = \"1h\"\n", dir))
	script := fmt.Sprintf("exec %s --log-level debug --config %s", program(t, "activator"), config)
	argv := append(shell[:len(shell)-1:len(shell)-1], shell[len(shell)-1]+"\n"+script)
	a := launchAs(t, exec.Command(argv[0], argv[1:]...))
	defer func() {
		_ = a.cmd.Process.Kill()
		<-a.ended
	}()
	if _, ok := a.log.wait(1, "activator ready"); !ok {
		return false, strings.Join(a.log.all(), "\n")
	}
	c, err := net.Dial("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got := make(chan bool, 1)
	go func() {
		_ = c.SetDeadline(time.Now().Add(waitTimeout))
		_, err := c.Write([]byte("hello"))
		if err == nil {
			_, err = c.Read(make([]byte, 5))
		}
		got <- err == nil
	}()
	rests := make(chan bool, 1)
	go func() {
		_, ok := a.log.wait(1, "state=resting")
		rests <- ok
	}()
	select {
	case answered = <-got:
	case <-rests:
	}
	return answered, strings.Join(a.log.all(), "\n")
}

// Under every limit of descriptors the activator either serves, or says which call it
// had none for and how to raise the limit. It never goes on with one that it has not.
func TestFewDescriptors(t *testing.T) {
	named := regexp.MustCompile(`these services need|are open already|(epoll_create1|eventfd|inotify_init1|open|fcntl|socketpair|socket|pipe2?|dup3|recvmsg|start)\b.*too many open files.*nofile`)
	outcomes := map[bool]int{}
	for limit := 4; limit <= 64; limit++ {
		shell := fmt.Sprintf("ulimit -n %d", limit)
		if limit%2 == 0 { // started by a program that leaves descriptors open
			shell = "exec 3</dev/null 4<&3 5<&3; " + shell
		}
		served, text := shortOf(t, folder(t), "sh", "-c", shell)
		outcomes[served]++
		switch {
		case strings.Contains(text, "bad file descriptor"):
			t.Errorf("limit %d: a descriptor is used that was not opened:\n%s", limit, text)
		case strings.Contains(text, "error while loading"):
			// It is not ours yet.
		case limit < 8:
			if want := fmt.Sprintf("activator: no more than %d descriptors are allowed here", limit); !strings.HasPrefix(text, want) || !strings.Contains(text, "nofile") || strings.Contains(text, "\n") {
				t.Errorf("limit %d: want %q and the cure, in one line:\n%s", limit, want, text)
			}
		case !served && !named.MatchString(text):
			t.Errorf("limit %d: the call and the cure are not named:\n%s", limit, text)
		}
	}
	t.Logf("served under %d limits, and not under %d", outcomes[true], outcomes[false])
	if outcomes[true] == 0 || outcomes[false] == 0 {
		t.Error("the limits are not those between which it matters")
	}
}

// A host without its null device, or without /proc, is told so before anything is bound.
func TestNoNullDeviceAndNoProc(t *testing.T) {
	onPath(t, "unshare", "mount")
	mount := []string{"unshare", "--mount", "--map-root-user", "sh", "-ec"}
	if out, err := exec.Command("unshare", "--mount", "--map-root-user", "true").CombinedOutput(); err != nil {
		t.Skipf("no mount namespace here: %v: %s", err, out)
	}
	for _, test := range []struct{ name, hide, says, cure string }{
		{"no /dev/null", "mount -n -t tmpfs none /dev", "open /dev/null: no such file or directory", "mknod -m 666 /dev/null c 1 3"},
		{"a folder at /dev/null", "mount -n -t tmpfs none /dev; mkdir /dev/null", "open /dev/null: is a directory", "mknod -m 666 /dev/null c 1 3"},
		{"no /proc", "mount -n -t tmpfs none /proc", "start activator-guard from /proc/self/exe: no such file or directory", "mount -t proc proc /proc"},
	} {
		t.Run(test.name, func(t *testing.T) {
			served, text := shortOf(t, folder(t), append(mount, test.hide)...)
			if served || !strings.Contains(text, test.says) || !strings.Contains(text, test.cure) || strings.Contains(text, "bad file descriptor") {
				t.Errorf("want %q and %q in:\n%s", test.says, test.cure, text)
			}
			if strings.Contains(text, "state=listening") {
				t.Errorf("it was bound all the same:\n%s", text)
			}
		})
	}
}
