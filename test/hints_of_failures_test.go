package test

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"activator/internal/ktest"
)

// mistake is a program that does not fit into its sandbox, and what it is told.
type mistake struct {
	name    string
	program string // Python; %d is a port
	config  string
	says    []string
}

// ofItself are those that a program names in its own words.
func ofItself(t *testing.T) []mistake {
	secret := t.TempDir() + "/secret"
	if err := os.WriteFile(secret, []byte("x"), 0o400); err != nil {
		t.Fatal(err)
	}
	own := func(kind, folder string) string { // an ordinary user's directories are elsewhere
		if os.Getuid() == 0 {
			return kind + `_directory = \"shop\"`
		}
		return `tmpfs = [\"` + folder + `\"]`
	}
	return []mistake{
		{"state", "open('/var/lib/shop/db/orders', 'w')", "", []string{"/var/lib/shop/db/orders is not there inside", own("state", "/var/lib/shop")}},
		{"cache", "import os; os.mkdir('/var/cache/shop/pages')", "", []string{own("cache", "/var/cache/shop")}},
		{"logs", "open('/var/log/shop/access.log', 'a')", "", []string{own("logs", "/var/log/shop")}},
		{"runtime", "open('/var/run/shop/pid', 'w')", "", []string{own("runtime", "/run/shop")}},
		{"missing on the host too", "open('/etc/no-such-file')", "", []string{"state=resting", "No such file"}},
		{"data", "open('" + secret + "')", "", []string{secret + " is not there inside", "read_only = "}},
		{"sys", "open('/sys/kernel/mm/transparent_hugepage/enabled')", "", []string{`read_only = [\"/sys\"]`}},
		{"read-only", "open('/etc/shop.conf', 'w')", "", []string{"/etc/shop.conf is read-only inside", "state_directory"}},
		{"owner", "import os; os.execlp('chown', 'chown', '4242', '/tmp')", "", []string{"changes its user or the owner of a file", "user ="}},
		{"user", "import os, sys\ntry: os.setuid(4242)\nexcept OSError as e: sys.exit('cannot drop privileges: setuid: ' + str(e))", "", []string{"changes its user"}},
		{"unknown user", "import pwd; pwd.getpwnam('nobody-has-this-name')", "", []string{"looks for a user", "user ="}},
		{"descriptors", "import os; [os.dup(0) for i in range(100)]", "limits = { nofile = 20 }", []string{"limits = { nofile"}},
	}
}

// ofTheFilter are those that only the activator sees.
func ofTheFilter(t *testing.T) []mistake {
	const sockets = "import socket, os; from socket import *; "
	return []mistake{
		{"bind tcp", sockets + "s = socket(); s.bind(('0.0.0.0', 8080)); s.listen(); os._exit(1)", "", []string{"binds tcp4://:8080 itself", `handover = \"bind\"`, `target = \"tcp4://:8080\"`}},
		{"connect tcp", sockets + "socket().connect(('127.0.0.1', 5432))", "", []string{"refused to connect to tcp://127.0.0.1:5432", `connect = \"any\"`}},
		{"connect unix", sockets + "socket(AF_UNIX).connect('/run/shop/db')", "", []string{"refused to connect to unix:///run/shop/db", `connect = \"unix\"`, `read_only = [\"/run/shop\"]`}},
		{"syslog", sockets + "socket(AF_UNIX, SOCK_DGRAM).connect('/dev/log')", "", []string{"/dev/log", "syslog = true", "log to stderr"}},
		{"packet", sockets + "socket(AF_PACKET, SOCK_RAW)", "", []string{"a socket of family AF_PACKET", `syscalls = \"any\"`}},
		{"raw", sockets + "socket(AF_INET, SOCK_RAW, IPPROTO_ICMP)", "", []string{"a socket of family AF_INET, type 3", "CAP_NET_RAW"}},
		{"netlink", sockets + "socket(AF_NETLINK, SOCK_RAW, 9)", "", []string{"a socket of family AF_NETLINK", "protocol 9"}},
		{"option", sockets + "socket(fileno=3).setsockopt(SOL_SOCKET, SO_MARK, 1)", "", []string{"the option SO_MARK of a socket", `seal = \"off\"`}},
		{"chroot", "import os; os.chroot('/tmp')", "", []string{"chroot(2)", "CAP_SYS_CHROOT"}},
		{"namespace", "import ctypes, os; ctypes.CDLL(None).unshare(0x10000000); os._exit(1)", "", []string{"unshare(2)", `syscalls = \"any\"`}},
	}
}

// A program that does not fit is told what to write, once. What the filter refuses is told of its second run, whose
// refusals are observed; that one is refused the same.
func TestHints(t *testing.T) {
	for _, m := range append(ofItself(t), ofTheFilter(t)...) {
		t.Run(m.name, func(t *testing.T) {
			dir := folder(t)
			n := ktest.Port(t)
			exec := fmt.Sprintf("exec = [\"python3\", \"-c\", %q]\n", m.program)
			a := activate(t, "--config", configureIn(t, dir, "shop", fmt.Sprintf("[[socket]]\nlisten = [\"tcp://127.0.0.1:%d\"]\n[service]\nhold = \"5m\"\nrestart_max_delay = \"100ms\"\n%s%s\n", n, exec, m.config)))
			c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", n))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			line := a.wait(append(m.says, "level=WARN")...)
			a.waitN(4, "state=resting")
			if strings.Contains(line, "state=resting") {
				return
			}
			_, told, _ := strings.Cut(line, " msg=")
			told, _, _ = strings.Cut(told, " pid=")
			if n := a.log.count(told); n != 1 {
				t.Errorf("told %d times: %s", n, told)
			}
		})
	}
}

// A program that works is told nothing, though it has been refused things that every program tries.
func TestHintsOfNoMistake(t *testing.T) {
	dir := folder(t)
	a := activate(t, "--config", configureIn(t, dir, "shop", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/s\"]\n[service]\nexec = [\"python3\", \"-c\", %q]\n", dir,
		"import socket, getpass, os, sys; print('No such file or directory: /var/lib/x', file=sys.stderr, flush=True); getpass.getuser(); s = socket.socket(fileno=3); c = s.accept()[0]; c.send(b'x')")))
	for range 3 {
		c, err := net.Dial("unix", dir+"/s")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
		c.Close()
	}
	a.waitN(3, "state=running")
	if n := a.log.count("level=WARN"); n > 0 {
		t.Errorf("%d warnings for a program that works", n)
	}
}

// A program of UDP may bind what it likes in its own network. It is told where its clients are not.
func TestHintsDeafElsewhere(t *testing.T) {
	dir := folder(t)
	n := ktest.Port(t)
	a := activate(t, "--config", configureIn(t, dir, "shop", fmt.Sprintf("[[socket]]\nlisten = [\"udp://127.0.0.1:%d\"]\n[service]\nhold = \"300ms\"\nexec = [\"python3\", \"-c\", %q]\n", n,
		"from socket import *; s = socket(AF_INET, SOCK_DGRAM); s.bind(('', 5300)); s.recv(1)")))
	c := dialUDP(t, "", fmt.Sprintf("127.0.0.1:%d", n))
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	a.wait("level=WARN", "takes no client: either it hangs", "it binds udp4://:5300 itself, in its own network", `handover = \"bind\"`, `target = \"udp4://:5300\"`)
}
