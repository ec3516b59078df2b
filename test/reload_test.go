package test

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"activator/internal/ktest"
)

// rewrite changes a configuration and sends SIGHUP.
func (a *activator) rewrite(path, text string) {
	a.t.Helper()
	text = strings.ReplaceAll(text, "ECHO", program(a.t, "echo"))
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		a.t.Fatal(err)
	}
	if err := a.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		a.t.Fatal(err)
	}
}

// A reload keeps what is the same, with the process that runs and its
// connections; keeps the queue of a socket whose service changed; opens what is
// new and closes what is gone; and on any error changes nothing.
func TestReload(t *testing.T) {
	dir := folder(t)
	configureIn(t, dir, "same", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/same\"]\n[service]\nexec = [\"ECHO\"]\n", dir))
	changing := fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/changing\"]\n[service]\nexec = [\"ECHO\"]\n", dir)
	path := configureIn(t, dir, "changing", changing)
	a := activate(t, "--config", dir)

	open, err := net.Dial("unix", dir+"/same")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	a.wait("service=same", "state=running")
	answered(t, "before", "unix:"+dir+"/changing")

	a.rewrite(path, changing+"no_such_key = 1\n")
	a.wait("configuration error", "no_such_key")
	answered(t, "after a bad reload", "unix:"+dir+"/changing")

	inode := inodeOf(t, dir+"/changing")
	a.rewrite(path, strings.Replace(changing, "]\n[service]", fmt.Sprintf(", \"unix://%s/added\"]\n[service]", dir), 1))
	a.waitN(1, "configuration reloaded", "started=1", "ended=1")
	answered(t, "after a reload", "unix:"+dir+"/changing", "unix:"+dir+"/added")
	if inodeOf(t, dir+"/changing") != inode {
		t.Error("the socket of a changed service was bound anew")
	}

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := a.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	a.waitN(1, "configuration reloaded", "started=0", "ended=1")
	for _, gone := range []string{"changing", "added"} {
		if _, err := os.Lstat(dir + "/" + gone); !os.IsNotExist(err) {
			t.Errorf("the node of a removed service is there: %v", err)
		}
	}

	// The connection that was open all the time is still the same one.
	if _, err := open.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len("still here"))
	if _, err := io.ReadFull(open, got); err != nil || string(got) != "still here" {
		t.Errorf("the open connection: %q, %v", got, err)
	}
	if n := a.log.count("service=same", "state=starting"); n != 1 {
		t.Errorf("the unchanged service started %d times", n)
	}
}

func inodeOf(t *testing.T, path string) uint64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// Clients that come while a changed service is being stopped wait in the queue
// and are answered by the new one, whatever of the socket has changed.
func TestReloadKeepsTheQueue(t *testing.T) {
	for name, changed := range map[string]string{
		"unix":        "",
		"unix, other": "backlog = 500\nsocket_mode = 0o600\nsymlinks = [\"DIR/link\"]\npass_credentials = true\nsend_buffer = 70000\n",
		"tcp, other":  "backlog = 500\nno_delay = true\nkeep_alive = true\nkeep_alive_time = \"61s\"\nip_tos = 16\nreceive_buffer = 70000\n",
		"udp, other":  "receive_buffer = 300000\nip_ttl = 9\npass_packet_info = true\n",
	} {
		t.Run(name, func(t *testing.T) { reloadWithQueue(t, strings.TrimSuffix(name, ", other"), changed) })
	}
}

func reloadWithQueue(t *testing.T, network, changed string) {
	dir := folder(t)
	address := fmt.Sprint("127.0.0.1:", ktest.Port(t))
	if network == "unix" {
		address = dir + "/s"
	}
	text := fmt.Sprintf("[[socket]]\nlisten = [\"%s://%s\"]\nCHANGED[service]\nexec = [\"SELF\"]\nenvironment = [\"ACTIVATOR_TEST_SERVICE=deaf\"]\n", network, address)
	path := configureIn(t, dir, "queue", strings.Replace(text, "CHANGED", "", 1))
	a := activate(t, "--config", path)
	const clients = 100
	var waiting []net.Conn
	for range clients {
		c, err := net.Dial(network, address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		waiting = append(waiting, c)
	}
	a.wait("state=running") // the program accepts no client
	text = strings.NewReplacer("CHANGED", changed, "DIR", dir, "SELF", "ECHO", "environment = [\"ACTIVATOR_TEST_SERVICE=deaf\"]\n", "").Replace(text)
	a.rewrite(path, text)
	for i, c := range waiting {
		if err := c.SetDeadline(time.Now().Add(waitTimeout)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatalf("client %d is lost: %v", i, err)
		}
	}
}
