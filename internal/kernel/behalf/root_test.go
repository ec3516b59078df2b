package behalf

import (
	"encoding/binary"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// sockaddr is struct sockaddr_un, unix(7).
func sockaddr(path string) []byte {
	return append(binary.NativeEndian.AppendUint16(nil, unix.AF_UNIX), path+"\x00"...)
}

// Who is connected on behalf of a process reaches what it may reach, and is seen as it.
func TestConnect(t *testing.T) {
	dir := folder(t)
	o := start(t, apart|unix.CLONE_NEWNS)
	p := place(t, o)
	if err := p.OpenRoot(o.cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	listener, err := listenAt(dir + "/s")
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(listener)
	if err := os.Chmod(dir+"/s", 0o600); err != nil {
		t.Fatal(err)
	}
	want := error(nil)
	if os.Geteuid() == 0 {
		want = unix.EACCES
	}
	if err := p.Connect(socket(t), sockaddr(dir+"/s")); !errors.Is(err, want) {
		t.Errorf("a socket of ours alone: %v, not %v", err, want)
	}
	if want == nil {
		accept(t, listener)
	}
	if err := os.Chmod(dir+"/s", 0o666); err != nil {
		t.Fatal(err)
	}
	if err := p.Connect(socket(t), sockaddr(dir+"/s")); err != nil {
		t.Fatal(err)
	}
	ucred, err := unix.GetsockoptUcred(accept(t, listener), unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || int(ucred.Uid) != o.uid || int(ucred.Gid) != o.gid || int(ucred.Pid) == os.Getpid() {
		t.Errorf("it is %+v who connects, not user %d, group %d: %v", ucred, o.uid, o.gid, err)
	}
	if err := p.Connect(socket(t), sockaddr(dir+"/none")); !errors.Is(err, unix.ENOENT) {
		t.Errorf("where nothing is: %v", err)
	}
}

func accept(t *testing.T, listener int) int {
	t.Helper()
	fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// What is bound on behalf of a process is its own.
func TestBindPath(t *testing.T) {
	dir := folder(t)
	o := start(t, apart|unix.CLONE_NEWNS)
	p := place(t, o)
	if err := p.OpenRoot(o.cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if err := p.Bind(socket(t), sockaddr(dir+"/s")); err != nil {
		t.Fatal(err)
	}
	var stat unix.Stat_t
	if err := unix.Stat(dir+"/s", &stat); err != nil || int(stat.Uid) != o.uid || int(stat.Gid) != o.gid {
		t.Errorf("%v: user %d, group %d", err, stat.Uid, stat.Gid)
	}
	if os.Geteuid() != 0 {
		return
	}
	closed := dir + "/closed"
	if err := os.Mkdir(closed, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := p.Bind(socket(t), sockaddr(closed+"/s")); !errors.Is(err, unix.EACCES) {
		t.Errorf("in a folder of ours: %v", err)
	}
}
