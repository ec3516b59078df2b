package test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"activator/internal/ktest"
)

// installed is the path of a program from the distribution.
func installed(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin"} {
		if path := filepath.Join(dir, name); isFile(path) {
			return path
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		ktest.Skip(t, "%v: install it", err)
	}
	return path
}

// onPath skips where a program is missing that something else calls by its name.
func onPath(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			ktest.Skip(t, "%v: install it", err)
		}
	}
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// uuidd takes a unix socket, and asks sd_listen_fds for it.
func TestUuidd(t *testing.T) {
	uuidd := installed(t, "uuidd")
	dir := folder(t)
	sock := dir + "/request"
	a := activate(t, "--config", configureIn(t, dir, "uuidd", fmt.Sprintf(
		"[[socket]]\nlisten = [\"unix://%s\"]\n[service]\nexec = [%q, \"--socket-activation\"]\n", sock, uuidd)))
	pattern := regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	first := command(t, "", uuidd, "--random", "--socket", sock)
	second := command(t, "", uuidd, "--time", "--socket", sock)
	if !pattern.MatchString(first) || !pattern.MatchString(second) || first == second {
		t.Errorf("uuidd answered %q and %q", first, second)
	}
	pidOf(t, a, 1)
}

// gunicorn takes a TCP socket, and compares LISTEN_PID with its own pid.
func TestGunicorn(t *testing.T) {
	gunicorn := installed(t, "gunicorn")
	dir := folder(t)
	app := "def app(environ, start_response):\n    start_response('200 OK', [('Content-Type', 'text/plain')])\n    return [b'networkless']\n"
	if err := os.WriteFile(filepath.Join(dir, "site_app.py"), []byte(app), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	n := ktest.Port(t)
	a := activate(t, "--config", configureIn(t, dir, "gunicorn", fmt.Sprintf(
		"[[socket]]\nlisten = [\"tcp://127.0.0.1:%d\"]\n[service]\nexec = [%q, \"--workers\", \"2\", \"--chdir\", %q, \"site_app:app\"]\nenvironment = [\"PYTHONDONTWRITEBYTECODE=1\"]\n[sandbox]\nread_only = [%q]\n",
		n, gunicorn, dir, dir)))
	url := fmt.Sprintf("http://127.0.0.1:%d/", n)
	for range 3 {
		if got := command(t, "", "curl", "--silent", "--show-error", "--max-time", "30", url); got != "networkless" {
			t.Errorf("curl %s printed %q", url, got)
		}
	}
	pidOf(t, a, 1)
	a.stop()
}

// rpcbind takes five sockets of three kinds, and tells them apart by itself. It
// wants to be root and then becomes _rpc, without groups: inside there is one
// user only, so both are that one, and dropping the groups needs its capability.
func TestRpcbind(t *testing.T) {
	if os.Getuid() != 0 {
		// Not ktest.Skip: no machine has it.
		t.Skip("rpcbind calls setgroups(2), which the kernel denies in every user namespace that an ordinary user makes, user_namespaces(7)")
	}
	rpcbind := installed(t, "rpcbind")
	dir := folder(t)
	n := ktest.Port(t)
	if err := os.WriteFile(filepath.Join(dir, "passwd"), []byte("root:x:0:0::/:/bin/false\n_rpc:x:0:0::/:/bin/false\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	a := activate(t, "--config", configureIn(t, dir, "rpcbind", fmt.Sprintf(
		"[[socket]]\nlisten = [\"unix://%[1]s/rpcbind.sock\", \"tcp://127.0.0.1:%[2]d\", \"udp://127.0.0.1:%[2]d\", \"tcp://[::1]:%[2]d\", \"udp://[::1]:%[2]d\"]\n[service]\nexec = [%[3]q, \"-f\"]\nuser = \"root\"\n[sandbox]\nread_only = [\"passwd:/etc/passwd\"]\ncapabilities = [\"CAP_SETGID\"]\n",
		dir, n, rpcbind)))
	for _, at := range []struct{ network, addr string }{
		{"unix", dir + "/rpcbind.sock"},
		{"tcp", fmt.Sprintf("127.0.0.1:%d", n)},
		{"udp", fmt.Sprintf("127.0.0.1:%d", n)},
		{"tcp", fmt.Sprintf("[::1]:%d", n)},
		{"udp", fmt.Sprintf("[::1]:%d", n)},
	} {
		if err := nullCall(at.network, at.addr); err != nil {
			t.Errorf("%s %s: %v", at.network, at.addr, err)
		}
	}
	pidOf(t, a, 1)
}

// nullCall calls procedure 0 of the port mapper, program 100000 version 3, as in
// RFC 5531, and wants the answer: accepted, success.
func nullCall(network, addr string) error {
	c, err := net.Dial(network, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(waitTimeout)); err != nil {
		return err
	}
	const xid = 0x61637469
	var call []byte
	for _, word := range []uint32{xid, 0, 2, 100000, 3, 0, 0, 0, 0, 0} {
		call = binary.BigEndian.AppendUint32(call, word)
	}
	want := make([]byte, 24)
	if network != "udp" { // on a stream each record has its length before it
		call = append(binary.BigEndian.AppendUint32(nil, 1<<31|uint32(len(call))), call...)
		want = make([]byte, 4+24)
	}
	if _, err := c.Write(call); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, want); err != nil {
		return err
	}
	answer := want[len(want)-24:]
	for i, word := range []uint32{xid, 1, 0, 0, 0, 0} {
		if got := binary.BigEndian.Uint32(answer[4*i:]); got != word {
			return fmt.Errorf("word %d of the answer is %d, want %d", i, got, word)
		}
	}
	return nil
}

// The examples are run as they stand, but for the port and the paths, which a
// test cannot share with the host.
func TestExamplesAreSound(t *testing.T) {
	files, err := filepath.Glob("../configs/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	more, err := filepath.Glob("../configs/*/*.toml")
	if err != nil || len(more) == 0 {
		t.Fatalf("no examples of several services: %v", err)
	}
	files = append(files, more...)
	for _, file := range files {
		out := command(t, "", program(t, "activator"), "check", "--offline", "--config", file)
		if !strings.Contains(out, "good") {
			t.Errorf("%s: %s", file, out)
		}
		effective := command(t, "", program(t, "activator"), "check", "--offline", "-v", "--config", file)
		again := filepath.Join(folder(t), filepath.Base(file))
		if err := os.WriteFile(again, []byte(effective), 0o644); err != nil {
			t.Fatal(err)
		}
		second := command(t, "", program(t, "activator"), "check", "--offline", "-v", "--config", again)
		_, first, _ := strings.Cut(effective, "\n")
		_, rest, _ := strings.Cut(second, "\n")
		if first != rest {
			t.Errorf("%s: the effective configuration, fed back, gives another:\n%s\n%s", file, first, rest)
		}
	}
}

// Most programs report by a connected socket, and a service may connect nothing;
// and many log to /dev/stdout, which they open anew.
func TestReportsAndLogs(t *testing.T) {
	dir := folder(t)
	script := "import os, socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.connect(os.environ['NOTIFY_SOCKET']); " +
		`s.send(b'STATUS=by a connected socket\nREADY=1'); print('opened anew', file=open('/dev/stdout', 'w')); ` +
		`l = socket.socket(fileno=3); c, _ = l.accept(); c.send(b'hello\n'); c.close()`
	a := activate(t, "--config", configureIn(t, dir, "reports", fmt.Sprintf(
		"[[socket]]\nlisten = [\"unix://%s/s\"]\n[service]\nexec = [\"python3\", \"-c\", %q]\nnotify = true\n", dir, script)))
	answered(t, "a program that reports", "unix:"+dir+"/s")
	a.wait("state=running")
	a.wait("by a connected socket")
	a.wait("opened anew", "stream=stdout")
}
