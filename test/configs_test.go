package test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"activator/internal/ktest"
)

// Each example runs as it stands, but for what two runs of these tests cannot share:
// ports, and here the runtime folder and the abstract names. echo.toml is the
// README's, and run with it.
func TestExampleUnixOnly(t *testing.T) {
	dir, name := folder(t)+"/echo", fmt.Sprintf("activator-test-%d", os.Getpid())
	activate(t, "--config", example(t, "unix-only", "%t/activator-echo", dir, "activator-echo-%U", name, "../bin/echo", "ECHO"))
	answered(t, "a stream by path", "unix:"+dir+"/stream")
	answered(t, "an abstract stream", "abstract-connect:"+name)
	for _, at := range []struct{ network, addr string }{
		{"unixpacket", dir + "/packet"}, {"unixpacket", "@" + name}, {"unixgram", dir + "/datagram"}, {"unixgram", "@" + name},
	} {
		if err := oneMessage(at.network, at.addr); err != nil {
			t.Errorf("%s %s: %v", at.network, at.addr, err)
		}
	}
}

// oneMessage sends a message, and wants it back. A datagram is answered to its
// sender's name, and the service does not see the paths of the host: the name is
// an abstract one.
func oneMessage(network, addr string) error {
	var local *net.UnixAddr
	if network == "unixgram" {
		local = &net.UnixAddr{Net: network, Name: fmt.Sprintf("@activator-test-client-%d", os.Getpid())}
	}
	c, err := net.DialUnix(network, local, &net.UnixAddr{Net: network, Name: addr})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(waitTimeout)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	got := make([]byte, 64)
	n, err := c.Read(got)
	if err == nil && string(got[:n]) != "hello" {
		err = fmt.Errorf("answer %q", got[:n])
	}
	return err
}

func TestExampleRootfs(t *testing.T) {
	root, err := filepath.Abs("../bin/rootfs")
	if err != nil {
		t.Fatal(err)
	}
	at, name := fmt.Sprintf("127.0.0.1:%d", ktest.Port(t)), fmt.Sprintf("activator-test-rootfs-%d", os.Getpid())
	activate(t, "--config", example(t, "rootfs", "127.0.0.1:3001", at, "activator-rootfs-%U", name, "../bin/rootfs", root))
	answered(t, "from a folder as root", "tcp4:"+at, "abstract-connect:"+name)
}

func TestExamplePodman(t *testing.T) {
	ktest.Filters(t)
	onPath(t, "podman")
	command(t, "", "./image.sh", "localhost/activator-echo", program(t, "echo"))
	home := os.Getenv("HOME")
	a := activate(t, "--config", "../configs/echo-podman.toml")
	answeredInTime(t, "tcp4:127.0.0.1:3000")
	answered(t, "from podman", "tcp4:127.0.0.1:3000", "tcp6:[::1]:3000", "udp4:127.0.0.1:3000", "udp6:[::1]:3000", "unix:"+home+"/echo_stream_sock")
	a.stop()
	noneLeft(t, "echo-podman")
}

// The proof of the how-to: inside, `ip -brief addr` shows lo and nothing else,
// and no host can be reached; with the host's network the same commands show
// interfaces and a page. The page is ours: nothing leaves the machine.
func TestProofOfIsolation(t *testing.T) {
	if _, err := os.Stat("/usr/sbin/ip"); err != nil {
		if _, err := os.Stat("/sbin/ip"); err != nil {
			ktest.Skip(t, "%v: install iproute2", err)
		}
	}
	onPath(t, "curl")
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "a page") }))
	defer page.Close()
	dir := folder(t)
	service := func(name, network, more string) string {
		script := fmt.Sprintf("exec >&2; dd bs=64 count=1 <&3 >/dev/null 2>&1; ip -brief addr; curl -sS --max-time 20 %s; echo; %s echo end", page.URL, more)
		configureIn(t, dir, name, fmt.Sprintf("[[socket]]\nlisten = [\"unixgram://%s/%s\"]\n[service]\nexec = [\"/bin/sh\", \"-c\", %q]\n[sandbox]\nconnect = \"any\"\nnetwork = %q\n", dir, name, script, network))
		return dir + "/" + name
	}
	none := service("none", "none", "curl -sS --max-time 20 https://podman.io;")
	host := service("host", "host", "")
	a := activate(t, "--config", dir)
	for _, sock := range []string{none, host} {
		c, err := net.Dial("unixgram", sock)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("go")); err != nil {
			t.Fatal(err)
		}
		c.Close()
		a.wait("service="+filepath.Base(sock), "msg=end")
	}
	said := func(service string) string {
		var b strings.Builder
		for _, line := range a.log.all() {
			if hasAll(line, []string{"service=" + service + " ", "stream=stderr"}) {
				b.WriteString(line + "\n")
			}
		}
		return b.String()
	}
	for _, want := range []string{"msg=\"lo ", "127.0.0.1/8 ::1/128", "Failed to connect to 127.0.0.1", "Could not resolve host: podman.io"} {
		if !strings.Contains(said("none"), want) {
			t.Errorf("without a network %q is missing in\n%s", want, said("none"))
		}
	}
	if n := strings.Count(said("none"), "\n"); n != 5 {
		t.Errorf("without a network there are %d lines, want 5:\n%s", n, said("none"))
	}
	if !strings.Contains(said("host"), "a page") {
		t.Errorf("with the host's network there is no page:\n%s", said("host"))
	}
}
