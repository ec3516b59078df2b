package udprelay

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func ourselves(sent time.Time) sender {
	return sender{pid: os.Getpid(), uid: os.Geteuid(), gid: os.Getegid(), sent: time.Duration(sent.UnixNano())}
}

// A number that is another process's by now is not the sender.
func TestConfirm(t *testing.T) {
	s := ourselves(time.Now())
	for range 2 {
		if err := s.confirmSender(); err != nil {
			t.Errorf("it is: %v", err)
		}
	}
	s.born++
	if err := s.confirmSender(); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the one that was looked at had begun at another time: %v", err)
	}
	s = ourselves(time.Now().Add(-time.Hour))
	if err := s.confirmSender(); !errors.Is(err, unix.ESRCH) {
		t.Errorf("it has sent before it began: %v", err)
	}
	if _, _, err := s.openView(); !errors.Is(err, unix.ESRCH) {
		t.Errorf("and is looked into: %v", err)
	}
	if err := s.sharesNetwork(); !errors.Is(err, unix.ESRCH) {
		t.Errorf("and its network is: %v", err)
	}
}

// What a path may be, of a sender that is looked into and of one that is not.
func TestOpenNode(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"own", "deaf"} {
		_, _ = hostSocket(t, "unixgram", filepath.Join(dir, name))
	}
	err := errors.Join(os.WriteFile(dir+"/file", nil, 0o600), os.Symlink("own", dir+"/link"), os.Symlink(dir, dir+"/folder"), os.Chmod(dir+"/deaf", 0))
	if err != nil {
		t.Fatal(err)
	}
	d := &unixRelay{relay: &relay{options: Options{UID: 61234}}}
	open := func(s sender, path string) error {
		node, err := d.openNode(&s, path)
		if err == nil {
			_ = unix.Close(node)
		}
		return err
	}
	s := ourselves(time.Now())
	for path, want := range map[string]error{
		dir + "/own": nil, dir + "/folder/own": nil, dir + "/link": unix.ENOTSOCK, dir + "/file": unix.ENOTSOCK,
		dir + "/none": unix.ENOENT, "/proc/self/root" + dir + "/own": unix.ELOOP, dir + "/deaf": unix.EACCES,
	} {
		if err := open(s, path); !errors.Is(err, want) {
			t.Errorf("%s: %v, not %v", path, err, want)
		}
	}
	if open(s, "own") == nil {
		t.Error("a relative path")
	}
	other := s
	other.uid++
	if err := open(other, dir+"/own"); !errors.Is(err, unix.ENOTSOCK) {
		t.Errorf("a socket of another user: %v", err)
	}
	for _, uid := range []int{os.Geteuid(), d.options.UID, nobody, -1} {
		hidden := sender{pid: 0, uid: uid, sent: s.sent}
		if err := open(hidden, dir+"/own"); !errors.Is(err, unix.ENOENT) {
			t.Errorf("of user %d, who cannot be looked into: %v", uid, err)
		}
	}
}

// askOnce is a process that binds a name, sends to another, and exits well if it is answered.
func askOnce(args []string) {
	c, err := net.DialUnix("unixgram", &net.UnixAddr{Name: args[0], Net: "unixgram"}, &net.UnixAddr{Name: args[1], Net: "unixgram"})
	if err == nil {
		_, err = c.Write([]byte("question"))
	}
	if err == nil {
		_ = c.SetReadDeadline(time.Now().Add(waitTimeout))
		_, err = c.Read(make([]byte, 100))
	}
	if err != nil {
		_, _ = os.Stdout.WriteString(err.Error())
		os.Exit(1)
	}
	os.Exit(0)
}

// Clients of every user are answered at their paths, one after the other at the same, and
// each has its name inside.
func TestUnixOneAfterTheOther(t *testing.T) {
	dir, err := os.MkdirTemp("", "relay")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	f, _ := hostSocket(t, "unixgram", dir+"/host")
	if err := os.Chmod(dir+"/host", 0o666); err != nil {
		t.Fatal(err)
	}
	d := openRelay(t, newOwner(t), f, Options{UID: 61233, GID: 61233})
	run(t, d)
	inner := service(t, d)
	uids := []int{os.Geteuid(), os.Geteuid()}
	if os.Geteuid() == 0 {
		uids = append(uids, 61234, 61235)
	}
	for _, uid := range uids {
		name := dir + "/client"
		cmd := exec.Command("/proc/self/exe", "helper", "client", name, dir+"/host")
		var said strings.Builder
		cmd.Stdout = &said
		if uid != os.Geteuid() {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		text, from := receive(t, inner)
		if text != "question" || from.String() != "@"+name {
			t.Errorf("user %d: the service sees %q from %v", uid, text, from)
		}
		ask(t, inner, from, "answer")
		if err := cmd.Wait(); err != nil {
			t.Errorf("user %d: %v: %s", uid, err, said.String())
		}
		_ = os.Remove(name)
	}
}
