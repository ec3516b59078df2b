package test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"activator/internal/ktest"
)

// Every client gets an instance of its own, more of them than may run at a time
// wait in the queue, and an instance that is killed costs only its own client.
func TestNoConnectionLost(t *testing.T) {
	const requests = 3000 // a process each
	t.Parallel()
	dir := folder(t)
	addr := fmt.Sprintf("127.0.0.1:%d", ktest.Port(t))
	a := activate(t, "--config", configureIn(t, dir, "cat", fmt.Sprintf(
		"[[socket]]\nlisten = [\"tcp://%s\"]\n[service]\n%sexec = [\"/bin/cat\"]\nhandover = \"stdio\"\naccept = true\nmax_connections = %d\n", addr, quick, clients/2)))
	stop := make(chan struct{})
	kills := make(chan int)
	go func() { kills <- killInstances(a, stop) }()
	var tl tally
	many(t, &tl, requests, func(i int) error { return ask("tcp", addr, i) })
	close(stop)
	n := <-kills
	t.Logf("%d answered, %d cut by %d kills, %d lost", tl.answered.Load(), tl.cut.Load(), n, tl.lost.Load())
	if tl.answered.Load()+tl.cut.Load() != requests || tl.lost.Load() != 0 {
		t.Errorf("the count is not exact")
	}
	if tl.cut.Load() > int64(n) {
		t.Errorf("%d cut by %d kills", tl.cut.Load(), n)
	}
	if n < 20 {
		t.Errorf("only %d kills", n)
	}
	// The last may have answered before we know that they run.
	ended := func() int { return a.log.count("instance ended") + a.log.count("instance failed") }
	for deadline := time.Now().Add(waitTimeout); ended() < requests && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	a.stop()
	if n := ended(); n != requests {
		t.Errorf("%d instances ended, want %d", n, requests)
	}
}

// killInstances kills about one instance in ten, until stop is closed, and
// returns how many it killed.
func killInstances(a *activator, stop chan struct{}) int {
	kills, seen := 0, 0
	for {
		text := a.log.all()
		for ; seen < len(text); seen++ {
			if !hasAll(text[seen], []string{"instance running"}) || rand.IntN(10) > 0 {
				continue
			}
			pid, _ := strconv.Atoi(field(text[seen], "pid"))
			if pid > 0 && syscall.Kill(pid, syscall.SIGKILL) == nil {
				kills++
			}
		}
		select {
		case <-stop:
			return kills
		case <-time.After(time.Millisecond):
		}
	}
}

// A reload that does not mean the service leaves its instances alone; one that
// does asks them to go, and a client that comes meanwhile waits in the queue.
func TestReloadWithInstances(t *testing.T) {
	dir := folder(t)
	addr := fmt.Sprintf("127.0.0.1:%d", ktest.Port(t))
	config := func(program string) string {
		return fmt.Sprintf("[[socket]]\nlisten = [\"tcp://%s\"]\n[service]\nexec = [%q]\nhandover = \"stdio\"\naccept = true\n", addr, program)
	}
	a := activate(t, "--config", configureIn(t, dir, "cat", config("/bin/cat")))
	reload := func(n int) {
		t.Helper()
		if err := a.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		a.waitN(n, "configuration reloaded")
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	echoed := func(text string) error {
		if err := c.SetDeadline(time.Now().Add(waitTimeout)); err != nil {
			return err
		}
		if _, err := io.WriteString(c, text); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, len(text)))
		return err
	}
	if err := echoed("before"); err != nil {
		t.Fatal(err)
	}
	reload(1)
	if err := echoed("after"); err != nil {
		t.Errorf("an unchanged service was cut off: %v", err)
	}
	configureIn(t, dir, "cat", strings.Replace(config("/bin/cat"), "accept", "umask = \"0077\"\naccept", 1))
	reload(2)
	if err := echoed("gone"); err == nil {
		t.Error("an instance outlived its configuration")
	}
	if err := ask("tcp", addr, 1); err != nil {
		t.Error(err)
	}
	a.stop()
}

// git's own server: a real clone over a connection of its own.
func TestExampleGitDaemon(t *testing.T) {
	installed(t, "git")
	dir := folder(t)
	run := func(argv ...string) {
		command(t, "", append([]string{"git", "-c", "user.name=tester", "-c", "user.email=tester@localhost", "-c", "init.defaultBranch=main"}, argv...)...)
	}
	source, served := dir+"/source", dir+"/git"
	run("init", "--quiet", source)
	content := bytes.Repeat([]byte("a line\n"), 50000)
	if err := os.WriteFile(source+"/file", content, 0o644); err != nil {
		t.Fatal(err)
	}
	run("-C", source, "add", "file")
	run("-C", source, "commit", "--quiet", "--message", "first")
	run("clone", "--quiet", "--bare", source, served+"/example")
	if err := os.WriteFile(served+"/example/git-daemon-export-ok", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	n := ktest.Port(t)
	a := activate(t, "--config", exampleIn(t, dir, "git-daemon", ":9418", fmt.Sprint(":", n),
		`read_only = ["/srv/git"]`, fmt.Sprintf("read_only = [%q]", served+":/srv/git")))
	for i, host := range []string{"127.0.0.1", "[::1]"} {
		to := fmt.Sprint(dir, "/clone", i)
		run("clone", "--quiet", fmt.Sprintf("git://%s:%d/example", host, n), to)
		if got, err := os.ReadFile(to + "/file"); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: cloned %d bytes, %v", host, len(got), err)
		}
	}
	a.waitN(2, "instance ended")
	a.stop()
}

func TestExampleHTTPD(t *testing.T) {
	busybox := installed(t, "busybox")
	n := ktest.Port(t)
	a := activate(t, "--config", exampleIn(t, folder(t), "httpd", ":8086", fmt.Sprint(":", n), "/usr/bin/busybox", busybox))
	for range 5 {
		got := command(t, "", "curl", "--silent", "--show-error", "--max-time", "30", fmt.Sprintf("http://127.0.0.1:%d/", n))
		if got != "<p>one instance for each request\n" {
			t.Errorf("curl printed %q", got)
		}
	}
	a.waitN(5, "instance ended")
	a.stop()
}

// A shell over ssh, and what it sees of the network.
func TestExampleSSHD(t *testing.T) {
	sshd := installed(t, "sshd")
	installed(t, "ssh")
	dir := folder(t)
	for _, name := range []string{"host", "user"} {
		command(t, "", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", dir+"/"+name)
	}
	n := ktest.Port(t)
	changes := []string{":2022", fmt.Sprint(":", n), "/usr/sbin/sshd", sshd,
		"%h/.config/activator/ssh_host_key", dir + "/host", "%h/.ssh/authorized_keys", dir + "/user.pub"}
	login := os.Getenv("USER")
	if os.Getuid() == 0 {
		// Any user with a shell: one of the sandbox's own passwd.
		login = "somebody"
		passwd := dir + "/passwd"
		if err := os.WriteFile(passwd, []byte("somebody:x:65534:65534::/:/bin/sh\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir+"/host", 65534, 65534); err != nil {
			t.Fatal(err)
		}
		changes = append(changes, `user = "%u"`, "user = 65534\ngroup = 65534", "read_only = [", fmt.Sprintf("read_only = [%q, ", passwd+":/etc/passwd"))
	} else if login == "" {
		login = strings.TrimSpace(command(t, "", "id", "--user", "--name"))
	}
	a := activate(t, "--config", exampleIn(t, dir, "sshd", changes...))
	got := command(t, "typed here\n", "ssh", "-F", "none", "-i", dir+"/user", "-p", strconv.Itoa(n), "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", login+"@127.0.0.1",
		"cat; echo $SSH_CONNECTION; tail -n +3 /proc/net/dev | cut -d: -f1; exit 0")
	lines := strings.Split(strings.TrimSpace(got), "\n")
	if len(lines) != 3 || lines[0] != "typed here" || !strings.HasPrefix(lines[1], "127.0.0.1 ") || strings.TrimSpace(lines[2]) != "lo" {
		t.Errorf("ssh printed %q", got)
	}
	a.wait("level=INFO", "instance ended", "exit status 255") // as sshd -i always ends
	a.stop()
}

// inetd's wait: the datagram socket itself is stdin.
func TestExampleTFTPD(t *testing.T) {
	if os.Getuid() != 0 {
		// Not ktest.Skip: no machine has it.
		t.Skip("in.tftpd wants to be root and calls setgroups(2), which the kernel denies in every user namespace that an ordinary user makes, user_namespaces(7)")
	}
	tftpd := installed(t, "in.tftpd")
	installed(t, "tftp")
	dir := folder(t)
	content := make([]byte, 100001)
	for i := range content {
		content[i] = byte(rand.Uint32())
	}
	if err := os.Mkdir(dir+"/tftp", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/tftp/file", content, 0o644); err != nil {
		t.Fatal(err)
	}
	n := ktest.Port(t)
	a := activate(t, "--config", exampleIn(t, dir, "tftpd", ":69\"", fmt.Sprintf(":%d\"", n), "/usr/sbin/in.tftpd", tftpd,
		`read_only = ["/srv/tftp"]`, fmt.Sprintf("read_only = [%q]", dir+"/tftp:/srv/tftp")))
	for i := range 2 {
		to := filepath.Join(dir, fmt.Sprint("got", i))
		command(t, "", "tftp", "127.0.0.1", strconv.Itoa(n), "-m", "binary", "-c", "get", "file", to)
		if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, content) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
	}
	pidOf(t, a, 1) // one process, for both
	if n := a.log.count("state=running"); n != 1 {
		t.Errorf("%d runs, want 1", n)
	}
	a.stop()
}

// inetd's wait with a listener: the program accepts from its stdin, for all
// clients.
func TestWaitListener(t *testing.T) {
	python := installed(t, "python3")
	addr := fmt.Sprintf("127.0.0.1:%d", ktest.Port(t))
	script := "import socket\nl = socket.socket(fileno=0)\nwhile True:\n    c, peer = l.accept()\n    with c: c.sendall(c.recv(64) + b' from stdin')\n"
	a := activate(t, "--config", configureIn(t, folder(t), "wait", fmt.Sprintf(
		"[[socket]]\nlisten = [\"tcp://%s\"]\n[service]\nexec = [%q, \"-c\", %q]\nhandover = \"stdio\"\n", addr, python, script)))
	for range 3 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetDeadline(time.Now().Add(waitTimeout)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "hello"); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); string(got) != "hello from stdin" {
			t.Errorf("got %q, %v", got, err)
		}
		c.Close()
	}
	pidOf(t, a, 1)
	a.stop()
}

// The connection is the host's socket, and sealed like an inherited one: it can be
// dissolved neither to connect elsewhere nor to listen.
func TestConnectionIsSealed(t *testing.T) {
	python := installed(t, "python3")
	script := `import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
def tried(what, result): print(what, result, ctypes.get_errno(), flush=True)
tried("dissolve", libc.connect(0, struct.pack("H14x", 0), 16))
tried("connect", libc.connect(0, struct.pack("!BBH4s8x", 2, 0, 9, bytes([127, 0, 0, 1])), 16))
tried("bind", libc.bind(0, struct.pack("H14x", 2), 16))
tried("listen", libc.listen(0, 5))
`
	addr := fmt.Sprintf("127.0.0.1:%d", ktest.Port(t))
	a := activate(t, "--config", configureIn(t, folder(t), "sealed", fmt.Sprintf(
		"[[socket]]\nlisten = [\"tcp://%s\"]\n[service]\nexec = [%q, \"-c\", %q]\nhandover = \"stdio\"\naccept = true\n", addr, python, script)))
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(waitTimeout)); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if !regexp.MustCompile(`^dissolve -1 1\nconnect -1 1\nbind -1 \d+\nlisten -1 \d+\n$`).Match(got) {
		t.Errorf("got %q, %v: want EPERM, and nothing that succeeds", got, err)
	}
	a.stop()
}
