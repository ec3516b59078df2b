package test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"activator/internal/ktest"
)

// A program that dies early says why in its last line: the log has it where it says that the service rests, and where
// clients are turned away, wherever the program's own output goes.
func TestHintsLastWords(t *testing.T) {
	for _, name := range []string{"log", "file", "null"} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t)
			text := fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/s\"]\n[service]\nexec = [\"/bin/sh\", \"-c\", "+
				"\"echo begins >&2; echo no such file: /etc/x.conf >&2; echo >&2; echo told >&1; exit 3\"]\nhold = \"500ms\"\n", dir)
			text += fmt.Sprintf("stderr = %q\n", map[string]string{"log": "log", "file": dir + "/errors", "null": "null"}[name])
			a := activate(t, "--config", configureIn(t, dir, "early", text))
			c, err := net.Dial("unix", dir+"/s")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			says := []string{"exit=\"exit status 3\"", "stderr=\"no such file: /etc/x.conf\""}
			if name == "null" {
				says = says[:1]
			}
			a.wait(append(says, "level=WARN", "state=resting")...)
			a.wait(append(says, "level=WARN", "clients turned away")...)
			if n := a.log.count("stderr="); name == "null" && n > 0 {
				t.Errorf("%d lines have what went to /dev/null", n)
			}
		})
	}
}

// A program that wants to be another user, which the kernel refuses and its last words do not say, is told of when its next
// run is observed.
func TestHintsUser(t *testing.T) {
	for call, want := range map[string]string{"os.setuid(4321)": "wants to be user 4321", "os.setgid(4321)": "wants to be group 4321",
		"os.setresuid(-1, 4321, -1)": "wants to be user 4321", "os.setgroups([])": "was refused setgroups(2) (EPERM)"} {
		t.Run(call, func(t *testing.T) {
			dir := folder(t)
			a := activate(t, "--config", configureIn(t, dir, "other", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/s\"]\n[service]\n"+
				"exec = [\"python3\", \"-c\", \"import os; %s\"]\n", dir, call)))
			c, err := net.Dial("unix", dir+"/s")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			a.wait("level=WARN", "program "+want, "by its own configuration")
		})
	}
}

// A program that never reports is told from one that hangs.
func TestHintsNeverReady(t *testing.T) {
	dir := folder(t)
	a := activate(t, "--config", configureIn(t, dir, "mute", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/s\"]\n"+
		"[service]\nexec = [\"/bin/sleep\", \"100\"]\nnotify = true\nstart_timeout = \"300ms\"\nhold = \"1s\"\n", dir)))
	c, err := net.Dial("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a.wait("level=ERROR", "service not started: it has not said READY=1", "notify = false", "start_timeout")
}

// A program that binds another address than the target is told of at once, with the line to write.
func TestHintsBindElsewhere(t *testing.T) {
	dir := folder(t)
	n := ktest.Port(t)
	a := activate(t, "--config", configureIn(t, dir, "other", fmt.Sprintf("[[socket]]\nlisten = [\"tcp://127.0.0.1:%d\"]\ntarget = \"tcp://:80\"\n"+
		"[service]\nexec = [\"SELF\"]\nenvironment = [\"ACTIVATOR_TEST_SERVICE=http\"]\nhandover = \"bind\"\nstart_timeout = \"infinity\"\n", n)))
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", n))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a.wait("level=WARN", "program binds tcp://:8000, which is no target, and tcp://:80 is still missing", `write target = \"tcp://:8000\"`)
}

// A program that runs and takes no client is told of, once, and not one that does.
func TestHintsDeaf(t *testing.T) {
	for _, service := range []string{"deaf", "ECHO"} {
		for _, network := range []string{"tcp", "udp", "unix"} {
			t.Run(service+"/"+network, func(t *testing.T) {
				dir := folder(t)
				address := fmt.Sprint("127.0.0.1:", ktest.Port(t))
				if network == "unix" {
					address = dir + "/s"
				}
				text := fmt.Sprintf("[[socket]]\nlisten = [\"%s://%s\"]\n[service]\nhold = \"100ms\"\nexec = [\"ECHO\"]\n", network, address)
				if service == "deaf" {
					text = strings.Replace(text, "ECHO", "SELF", 1) + "environment = [\"ACTIVATOR_TEST_SERVICE=deaf\"]\n"
				}
				a := activate(t, "--config", configureIn(t, dir, "deaf", text))
				c, err := net.Dial(network, address)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if _, err := c.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				if service == "deaf" {
					a.wait("level=WARN", "service runs, and takes no client", "LISTEN_FDS", "clients=1")
					return
				}
				_ = c.SetDeadline(time.Now().Add(waitTimeout))
				if _, err := c.Read(make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(300 * time.Millisecond) // nothing tells of what is not said
				if n := a.log.count("takes no client"); n > 0 {
					t.Errorf("%d lines of a program that takes its clients", n)
				}
			})
		}
	}
}

// A program that goes to the background is told from one that is done with its client.
func TestHintsBackground(t *testing.T) {
	dir := folder(t)
	a := activate(t, "--config", configureIn(t, dir, "daemon", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/s\"]\n"+
		"[service]\nexec = [\"/bin/sh\", \"-c\", \"sleep 100 & exit 0\"]\n", dir)))
	c, err := net.Dial("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a.wait("level=WARN", "service has ended at once with 0, again", "foreground", "init = true")
	a.wait("state=running") // its child has the sockets
	once := activate(t, "--config", configureIn(t, dir, "once", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/once\"]\n"+
		"[service]\nexec = [\"python3\", \"-c\", \"import socket; s = socket.socket(fileno=3); c = s.accept()[0]; c.send(b'x')\"]\n", dir)))
	for range 4 {
		c, err := net.Dial("unix", dir+"/once")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
		c.Close()
	}
	if n := once.log.count("foreground"); n > 0 {
		t.Errorf("%d lines of a program that has served its clients", n)
	}
}

// A program that goes to the background serves its clients: from its first run on with init = true, else from the third on.
// It is running for as long as the child that has the sockets, which gets its signals.
func TestBackground(t *testing.T) {
	const daemon = "import os, sys\nfrom socket import *\nif HANDOVER == 'fds': s = socket(fileno=3)\nelse: s = socket(AF_UNIX); s.bind(PATH); s.listen()\n" +
		"ended, held = os.pipe()\nif os.fork(): os._exit(0)\nos.close(held); os.read(ended, 1); os.setsid()\nif os.fork(): os._exit(0)\nwhile True: c = s.accept()[0]; c.send(b'x'); c.close()\n"
	for _, handover := range []string{"fds", "bind"} {
		for _, reaper := range []string{"", "[sandbox]\ninit = true\n"} {
			t.Run(handover+" "+reaper, func(t *testing.T) {
				dir := folder(t)
				program := strings.NewReplacer("HANDOVER", "'"+handover+"'", "PATH", "'"+dir+"/s'").Replace(daemon)
				if handover == "bind" {
					program = strings.ReplaceAll(program, dir+"/s", "/run/s")
				}
				target := map[string]string{"bind": "target = \"unix:///run/s\"\n"}[handover]
				a := activate(t, "--config", configureIn(t, dir, "daemon", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/s\"]\n%s[service]\nexec = [\"python3\", \"-c\", %q]\nhandover = %q\n%s",
					dir, target, program, handover, reaper)))
				told, listening := "ended at once with 0", 1
				if reaper != "" {
					told, listening = "activator ready", 0
				}
				// A child that is not followed may answer a client, or have one, when it is killed.
				clients, unanswered := 0, 0
				for ; clients < 50 && (clients < 3+unanswered || a.log.count(told) == 0); clients++ {
					if !isAnswered(t, dir+"/s") {
						unanswered++
					}
				}
				if n := listeningSince(a, told); n != listening || unanswered >= a.log.count("state=listening") {
					t.Errorf("%d times listening since %q, %d of %d clients unanswered", n, told, unanswered, clients)
				}
			})
		}
	}
}

// listeningSince counts how often a service has listened since the log told something; -1: it has not.
func listeningSince(a *activator, told string) int {
	n := -1
	for _, line := range a.log.all() {
		switch {
		case n < 0 && strings.Contains(line, told):
			n = 0
		case n >= 0 && strings.Contains(line, "state=listening"):
			n++
		}
	}
	return n
}

// isAnswered reports whether a client gets a byte.
func isAnswered(t *testing.T, path string) bool {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(waitTimeout))
	_, err = c.Read(make([]byte, 1))
	if err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return err == nil
}

// So does the line about an instance of one client.
func TestHintsInstance(t *testing.T) {
	dir := folder(t)
	a := activate(t, "--config", configureIn(t, dir, "inetd", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/s\"]\n"+
		"[service]\nexec = [\"/bin/sh\", \"-c\", \"echo begins >&2; echo no repository here >&2; exit 3\"]\nhandover = \"stdio\"\naccept = true\n", dir)))
	c, err := net.Dial("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a.wait("instance ended", "exit=\"exit status 3\"", "stderr=\"no repository here\"")
}

// What an instance is refused is told of one that is observed: after a failure, and three times at the most.
func TestHintsObservedInstance(t *testing.T) {
	dir := folder(t)
	const program = "import socket, sys; print('x'); sys.stdout.flush(); socket.socket().connect(('127.0.0.1', 5432))"
	a := activate(t, "--config", configureIn(t, dir, "inetd", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/s\"]\n"+
		"[service]\nexec = [\"python3\", \"-c\", %q]\nhandover = \"stdio\"\naccept = true\n", dir, program)))
	for n := 1; a.log.count("level=WARN", "refused to connect to tcp://127.0.0.1:5432", `connect = \"any\"`) == 0; n++ {
		if n > 50 {
			t.Fatal("nothing is told of 50 instances")
		}
		c, err := net.Dial("unix", dir+"/s")
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(waitTimeout))
		if _, err := io.ReadAll(c); err != nil {
			t.Error(err)
		}
		c.Close()
		a.waitN(n, "instance ended", "PermissionError")
	}
}
