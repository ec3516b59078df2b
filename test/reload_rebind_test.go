package test

import (
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"activator/internal/ktest"
)

// An address that overlaps with one we hold ourselves, or a path that another
// kind of socket of ours stands at, is had by a reload: the old one makes way.
func TestReloadToAnOverlappingAddress(t *testing.T) {
	dir := folder(t)
	n := ktest.Port(t)
	text := "[[socket]]\nlisten = [%s]\n[service]\nexec = [\"ECHO\"]\n"
	path := configureIn(t, dir, "s", fmt.Sprintf(text, fmt.Sprintf("\"tcp://127.0.0.1:%d\", \"unix://%s/s\"", n, dir)))
	a := activate(t, "--config", path)
	answered(t, "narrow", fmt.Sprintf("tcp4:127.0.0.1:%d", n), "unix:"+dir+"/s")
	a.rewrite(path, fmt.Sprintf(text, fmt.Sprintf("\"tcp://:%d\", \"unixpacket://%s/s\"", n, dir)))
	a.waitN(1, "configuration reloaded")
	answered(t, "wide", fmt.Sprintf("tcp4:127.0.0.1:%d", n), fmt.Sprintf("tcp6:[::1]:%d", n))
	a.rewrite(path, fmt.Sprintf(text, fmt.Sprintf("\"tcp://127.0.0.1:%d\", \"unix://%s/t\"]\nsymlinks = [\"%s/s\"", n, dir, dir)))
	a.waitN(2, "configuration reloaded")
	answered(t, "narrow again", fmt.Sprintf("tcp4:127.0.0.1:%d", n), "unix:"+dir+"/s")
}

// A new option that cannot be had changes nothing: neither the service it is for,
// nor another.
func TestReloadRefusedOption(t *testing.T) {
	dir := folder(t)
	good := fmt.Sprintf("[[socket]]\nlisten = [\"tcp://127.0.0.1:%d\"]\n[service]\nexec = [\"ECHO\"]\n", ktest.Port(t))
	path := configureIn(t, dir, "s", good)
	a := activate(t, "--config", path)
	a.rewrite(path, strings.Replace(good, "[service]", "bind_to_device = \"none-such\"\n[service]", 1))
	a.wait("configuration error", "key=socket.bind_to_device", "no such device")
	a.wait("not reloaded", "everything stays")
	answered(t, "after a refused option", "tcp4:"+strings.TrimPrefix(strings.SplitN(good, "\"", 3)[1], "tcp://"))
	if n := a.log.count("state=ended"); n != 0 {
		t.Errorf("%d services were ended", n)
	}
}

// An address that is found to be taken only when the old socket has made way sets
// the service back to what it was.
func TestReloadSetsBack(t *testing.T) {
	dir := folder(t)
	n := ktest.Port(t)
	text := "[[socket]]\nlisten = [\"tcp4://%s:%d\"]\n[service]\nexec = [\"ECHO\"]\n"
	path := configureIn(t, dir, "s", fmt.Sprintf(text, "127.0.0.1", n))
	a := activate(t, "--config", path)
	other, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.2:%d", n))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	a.rewrite(path, fmt.Sprintf(text, "", n))
	a.wait("service not reloaded", "goes on as before", "held by")
	a.wait("configuration reloaded", "started=0")
	answered(t, "after it was set back", fmt.Sprintf("tcp4:127.0.0.1:%d", n))
	_ = other.Close()
	if err := a.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	a.waitN(2, "configuration reloaded")
	answered(t, "the next reload", fmt.Sprintf("tcp4:127.0.0.2:%d", n))
}

// A FIFO among the files neither stops a reload nor the end after it.
func TestReloadWithAFIFO(t *testing.T) {
	dir := folder(t)
	configureIn(t, dir, "s", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/s\"]\n[service]\nexec = [\"ECHO\"]\n", dir))
	a := activate(t, "--config", dir)
	if err := syscall.Mkfifo(dir+"/pipe.toml", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	a.wait("configuration error", "is no file")
	a.wait("not reloaded")
	answered(t, "after a refused reload", "unix:"+dir+"/s")
	_ = os.Remove(dir + "/pipe.toml")
}
