package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"testing"
	"time"

	"activator/internal/ktest"
)

// askInside runs a Python program as a service, and returns what it sends to its client: JSON of what is in seen.
func askInside(t *testing.T, keys, program string, seen any) {
	t.Helper()
	dir := folder(t)
	n := ktest.Port(t)
	text := fmt.Sprintf("[[socket]]\nlisten = [\"tcp://127.0.0.1:%d\"]\n[service]\nexec = [\"python3\", \"-c\", %q]\n%s", n,
		"import json, os; from socket import *; s = socket(fileno=3); c = s.accept()[0]; seen = {}\n"+program+"\nc.send(json.dumps(seen).encode())", keys)
	activate(t, "--config", configureIn(t, dir, "shop", text))
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", n))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	text2, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text2, seen); err != nil {
		t.Fatalf("%q: %v", text2, err)
	}
}

// The ids that a program has inside have a name, and the home is there.
func TestInsideWhoAmI(t *testing.T) {
	const program = `
import pwd, grp
p = pwd.getpwuid(os.getuid())
seen["Name"], seen["UID"], seen["Same"], seen["Group"] = p.pw_name, p.pw_uid, pwd.getpwnam(p.pw_name).pw_uid == os.getuid(), grp.getgrgid(os.getgid()).gr_name
seen["Home"], seen["IsHome"], seen["Root"] = os.environ["HOME"], os.path.isdir(os.environ["HOME"]), pwd.getpwuid(0).pw_name
try: open("/etc/passwd", "a"); seen["Writes"] = True
except OSError: pass
try: open(os.environ["HOME"] + "/file", "w").write("x"); seen["Keeps"] = True
except OSError: pass
seen["Left"] = [n for n in os.listdir("/") if n.startswith(".")]`
	type answer struct {
		Name, Group, Home, Root     string
		UID                         int
		Same, IsHome, Writes, Keeps bool
		Left                        []string
	}
	check := func(t *testing.T, keys, name, home string, keeps bool) (seen answer) {
		askInside(t, keys, program, &seen)
		if seen.Name != name || seen.Home != home || seen.Root != "root" || !seen.Same || !seen.IsHome || seen.Writes || seen.Keeps != keeps || len(seen.Left) > 0 {
			t.Errorf("%s in %s: %+v", name, home, seen)
		}
		return seen
	}
	if os.Geteuid() != 0 {
		me, err := user.Current()
		if err != nil {
			t.Fatal(err)
		}
		check(t, "", me.Username, me.HomeDir, filepath.Dir(me.HomeDir) == "/home")
		check(t, "user = \"root\"\n", "root", "/root", true)
		return
	}
	if seen := check(t, "", "shop", "/", false); seen.Group != "shop" || seen.UID < 61184 {
		t.Errorf("%+v", seen)
	}
	check(t, "user = \"4242\"\n", "shop", "/", false)
	if u, err := user.Lookup("daemon"); err != nil {
		t.Fatal(err)
	} else if seen := check(t, "user = \"daemon\"\n", "daemon", u.HomeDir, false); fmt.Sprint(seen.UID) != u.Uid {
		t.Errorf("%+v", seen)
	}
}

// A program has terminals of its own, and finds by sd_booted(3) that its sockets may have been handed over.
func TestInsideDevices(t *testing.T) {
	var seen struct {
		Terminal, Echo string
		Count          int
		Booted         bool
	}
	askInside(t, "", `
master, slave = os.openpty()
seen["Terminal"], seen["Count"] = os.ttyname(slave), len(os.listdir("/dev/pts"))
os.write(master, b"x\n"); seen["Echo"] = os.read(slave, 10).decode()
seen["Booted"] = os.path.isdir("/run/systemd/system")`, &seen)
	if seen.Terminal != "/dev/pts/0" || seen.Echo != "x\n" || !seen.Booted || seen.Count != 2 {
		t.Errorf("%+v", seen)
	}
}

// One service cannot take the terminals of all others.
func TestInsideTerminalsAreBounded(t *testing.T) {
	var seen struct{ Made int }
	askInside(t, "", `
made = []
try:
    while True: made.append(os.open("/dev/ptmx", os.O_RDWR))
except OSError: pass
seen["Made"] = len(made)`, &seen)
	if seen.Made == 0 || seen.Made > 16 {
		t.Errorf("%d terminals", seen.Made)
	}
}

// What runtimes set on every datagram socket, unasked, they can set on one that they were given.
func TestInsideMulticastOptions(t *testing.T) {
	dir := folder(t)
	n := ktest.Port(t)
	activate(t, "--config", configureIn(t, dir, "java", fmt.Sprintf("[[socket]]\nlisten = [\"udp://[::1]:%d\"]\n[service]\nexec = [\"python3\", \"-c\", %q]\n", n, `
from socket import *
s = socket(fileno=3)
for level, option in [(IPPROTO_IP, IP_MULTICAST_TTL), (IPPROTO_IP, IP_MULTICAST_LOOP), (IPPROTO_IP, 49), (IPPROTO_IPV6, IPV6_MULTICAST_HOPS), (IPPROTO_IPV6, IPV6_MULTICAST_LOOP), (IPPROTO_IPV6, 29)]:
    s.setsockopt(level, option, 0)
data, to = s.recvfrom(10)
s.sendto(data, to)
`)))
	c := dialUDP(t, "", fmt.Sprintf("[::1]:%d", n))
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

// A program that has sockets of its own may set on those what no socket of the host's may have.
func TestInsideOwnSocketOptions(t *testing.T) {
	n := ktest.Port(t)
	activate(t, "--config", configureIn(t, folder(t), "own", fmt.Sprintf("[[socket]]\nlisten = [\"udp://127.0.0.1:%d\"]\n[service]\nexec = [\"python3\", \"-c\", %q]\n[sandbox]\nconnect = \"any\"\n", n, `
from socket import *
host, own = socket(fileno=3), socket(AF_INET, SOCK_DGRAM)
membership = inet_aton("239.1.1.1") + inet_aton("127.0.0.1")
answers = []
for s in own, host:
    for option, value in (IP_ADD_MEMBERSHIP, membership), (IP_TTL, 1), (IP_MULTICAST_IF, membership[4:]):
        try:
            s.setsockopt(IPPROTO_IP, option, value)
            answers.append("yes")
        except OSError as e:
            answers.append(str(e.errno))
data, to = host.recvfrom(10)
host.sendto(" ".join(answers).encode(), to)
`)))
	c := dialUDP(t, "", fmt.Sprintf("127.0.0.1:%d", n))
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	answers := make([]byte, 100)
	size, err := c.Read(answers)
	if got, want := string(answers[:size]), "yes yes yes 92 92 92"; got != want || err != nil { // ENOPROTOOPT
		t.Errorf("%q, %v", got, err)
	}
}

// Files of the configuration's own are what a program sees, whatever ids it has; and a folder that becomes the root may have any names.
func TestInsideOwnAccounts(t *testing.T) {
	dir := folder(t)
	passwd := dir + "/passwd"
	if err := os.WriteFile(passwd, []byte("mine:x:1:1::/:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var seen struct{ Text string }
	for _, mounted := range []string{passwd + ":/etc/passwd", dir + ":/etc"} {
		askInside(t, fmt.Sprintf("[sandbox]\nread_only = [%q]\n", mounted), `seen["Text"] = open("/etc/passwd").read()`, &seen)
		if seen.Text != "mine:x:1:1::/:/bin/sh\n" {
			t.Errorf("%s: %q", mounted, seen.Text)
		}
	}
}

// An observed run is refused no start that another one gets: with everything open there is nothing to observe.
func TestHintsOpenService(t *testing.T) {
	for _, open := range []string{"", "seal = \"off\"", "connect = \"any\"", "syscalls = \"any\"", "seal = \"off\"\nconnect = \"any\"\nsyscalls = \"any\"", "init = true"} {
		t.Run(open, func(t *testing.T) {
			dir := folder(t)
			if err := os.Mkdir(dir+"/count", 0o777); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.Chmod(dir+"/count", 0o777), os.Chmod(dir, 0o755)); err != nil {
				t.Fatal(err)
			}
			n := ktest.Port(t)
			// It fails twice, and serves in its third run.
			activate(t, "--config", configureIn(t, dir, "shop", fmt.Sprintf("[[socket]]\nlisten = [\"tcp://127.0.0.1:%d\"]\n[service]\nhold = \"5m\"\nrestart_max_delay = \"100ms\"\nexec = [\"python3\", \"-c\", %q]\n[sandbox]\nwritable = [%q]\n%s\n", n, `
import os, sys
from socket import *
runs = len(os.listdir("`+dir+`/count"))
open("`+dir+`/count/%%d" %% runs, "x")
if runs < 2: sys.exit(1)
c = socket(fileno=3).accept()[0]; c.send(b"x")`, dir+"/count", open)))
			c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", n))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(waitTimeout))
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Error(err)
			}
		})
	}
}
