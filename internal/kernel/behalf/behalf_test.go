package behalf

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "program" {
		program()
	}
	if len(os.Args) > 1 && os.Args[1] == "connect" {
		connect()
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	ktest.Main(m)
}

// program listens at the paths that it is told, and says so; it ends with its input.
func program() {
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if in.Text() == "stop" {
			go stopAll()
			continue
		}
		if in.Text() == "tcp" {
			fmt.Println(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
			continue
		}
		_, err := listenAt(in.Text())
		fmt.Println(err)
	}
	os.Exit(0)
}

func listenAt(path string) (fd int, err error) {
	if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	}
	if err == nil {
		err = unix.Listen(fd, 10)
	}
	return fd, err
}

// other is a program in namespaces of its own, as root with an id of its own.
type other struct {
	t        *testing.T
	cmd      *exec.Cmd
	in       io.WriteCloser
	out      *bufio.Reader
	uid, gid int
}

func start(t *testing.T, flags uintptr) *other {
	t.Helper()
	o := &other{t: t, cmd: exec.Command("/proc/self/exe", "program"), uid: os.Geteuid(), gid: os.Getegid()}
	o.cmd.Stderr = os.Stderr
	o.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	if os.Geteuid() == 0 {
		o.uid, o.gid = 61234, 61235
	}
	if flags&unix.CLONE_NEWUSER != 0 {
		o.cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 1000, HostID: o.uid, Size: 1}}
		o.cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 1001, HostID: o.gid, Size: 1}}
		if os.Geteuid() == 0 {
			o.cmd.SysProcAttr.GidMappingsEnableSetgroups = true
			o.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 1000, Gid: 1001}
		}
	}
	var err error
	if o.in, err = o.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := o.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	o.out = bufio.NewReader(out)
	if err := o.cmd.Start(); err != nil {
		ktest.Skip(t, "no user namespaces: %v", err)
	}
	t.Cleanup(o.end)
	return o
}

func (o *other) end() {
	_ = o.in.Close()
	_ = o.cmd.Wait()
}

func (o *other) listen(path string) {
	o.t.Helper()
	fmt.Fprintln(o.in, path)
	if line, err := o.out.ReadString('\n'); line != "<nil>\n" {
		o.t.Fatalf("it says %q: %v", line, err)
	}
}

const apart = unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// folder is one that everybody may write.
func folder(t *testing.T) string {
	dir := t.TempDir()
	for at := dir; at != filepath.Dir(os.TempDir()) && at != "/"; at = filepath.Dir(at) {
		_ = os.Chmod(at, 0o777|os.ModeSticky)
	}
	return dir
}

func connected(t *testing.T, path string) int {
	t.Helper()
	fd := socket(t)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	return fd
}

func socket(t *testing.T) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func place(t *testing.T, o *other) *Place {
	t.Helper()
	p, err := OpenPlace(o.cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// A listener is known by who listens: not by the host's user, who is the same, and not
// by a number that was somebody else's.
func TestHasListener(t *testing.T) {
	dir := folder(t)
	ours, neighbour, host := start(t, apart), start(t, apart), start(t, 0)
	ours.listen(dir + "/ours")
	neighbour.listen(dir + "/neighbour")
	host.listen(dir + "/host")
	left := start(t, 0)
	left.listen(dir + "/left")
	fds := map[string]int{}
	for _, name := range []string{"ours", "neighbour", "host", "left"} {
		fds[name] = connected(t, dir+"/"+name)
	}
	left.end() // the process is gone, and its number free
	p := place(t, ours)
	for name, fd := range fds {
		if got, err := p.HasListener(fd); got != (name == "ours") || err != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	ours.end()
	if got, err := p.HasListener(fds["ours"]); got || err == nil {
		t.Errorf("of a place without a process: %v, %v", got, err)
	}
}

// A client of a socket that listens on behalf of a process sees the process's ids.
func TestListen(t *testing.T) {
	dir := folder(t)
	o := start(t, apart)
	p := place(t, o)
	fd := socket(t)
	if err := p.Listen(fd, 5); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a socket without a name: %v", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: dir + "/s"}); err != nil {
		t.Fatal(err)
	}
	if err := p.Listen(fd, 5); err != nil {
		t.Fatal(err)
	}
	client := connected(t, dir+"/s")
	ucred, err := unix.GetsockoptUcred(client, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		t.Fatal(err)
	}
	if int(ucred.Uid) != o.uid || int(ucred.Gid) != o.gid || int(ucred.Pid) == os.Getpid() {
		t.Errorf("a client sees %+v, not user %d, group %d", *ucred, o.uid, o.gid)
	}
	if there, err := p.HasListener(client); !there || err != nil {
		t.Errorf("%v, %v", there, err)
	}
}

// tcp is a copy of a socket that it makes.
func (o *other) tcp() int {
	o.t.Helper()
	fmt.Fprintln(o.in, "tcp")
	var number int
	line, err := o.out.ReadString('\n')
	if err == nil {
		_, err = fmt.Sscan(line, &number)
	}
	if err != nil {
		o.t.Fatal(line, err)
	}
	pidfd, err := unix.PidfdOpen(o.cmd.Process.Pid, 0)
	if err != nil {
		o.t.Fatal(err)
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, number, 0)
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// A low port is the process's where the network is.
func TestBind(t *testing.T) {
	refused := error(unix.EACCES)
	if first, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); err == nil && len(first) < len("82\n")+1 {
		refused = nil // a machine that gives low ports to everybody
	}
	own, shared := start(t, apart), start(t, unix.CLONE_NEWUSER|unix.CLONE_NEWPID)
	type asked struct {
		of   *other
		port byte
		want error
	}
	all := []asked{{own, 81, nil}, {own, 81, unix.EINVAL}, {shared, 81, refused}}
	if os.Geteuid() == 0 { // in our own user namespace, as a container of root's
		all = append(all, asked{start(t, unix.CLONE_NEWPID|unix.CLONE_NEWNET), 81, nil})
	}
	for _, tt := range all {
		fd := tt.of.tcp()
		if tt.want == unix.EINVAL {
			_ = unix.Bind(fd, &unix.SockaddrInet4{Port: 8181})
		}
		address := make([]byte, unix.SizeofSockaddrInet4)
		address[0], address[3] = unix.AF_INET, tt.port
		if err := place(t, tt.of).Bind(fd, address); !errors.Is(err, tt.want) {
			t.Errorf("%v, not %v", err, tt.want)
		}
	}
}

// Within Do nothing can be reached that the process cannot reach; afterwards all is as before.
func TestDo(t *testing.T) {
	o := start(t, apart)
	ids, err := IDsOf(o.cmd.Process.Pid)
	if err != nil || ids.UID != o.uid || ids.GID != o.gid || os.Geteuid() == 0 && len(ids.Groups) > 0 {
		t.Fatalf("%+v, %v", ids, err)
	}
	dir := folder(t)
	secret := dir + "/secret"
	if err := os.WriteFile(secret, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	before := status(t)
	open := func() error {
		fd, err := unix.Open(secret, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		_ = unix.Close(fd)
		return err
	}
	want := error(nil)
	if os.Geteuid() == 0 {
		want = unix.EACCES
	}
	if err := ids.Do(open); !errors.Is(err, want) {
		t.Errorf("%v, not %v", err, want)
	}
	own, err := IDsOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	inside := ""
	if err := own.Do(func() error { inside = status(t); return open() }); err != nil {
		t.Errorf("as ourselves: %v", err)
	}
	if !strings.Contains(inside, "CapEff:\t0000000000000000") {
		t.Errorf("with capabilities:\n%s", inside)
	}
	if err := open(); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if after := status(t); after != before {
		t.Errorf("was\n%s\nis\n%s", before, after)
	}
	if os.Geteuid() == 0 {
		return
	}
	if err := (IDs{UID: 12, GID: 12}).Do(open); !errors.Is(err, unix.EPERM) {
		t.Errorf("as somebody else: %v", err)
	}
}

func status(t *testing.T) string {
	text, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		t.Fatal(err)
	}
	var kept strings.Builder
	for line := range strings.Lines(string(text)) {
		switch name, _, _ := strings.Cut(line, ":"); name {
		case "Uid", "Gid", "Groups", "CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb":
			kept.WriteString(line)
		}
	}
	return kept.String()
}

func BenchmarkDo(b *testing.B) {
	ids := IDs{UID: os.Geteuid(), GID: os.Getegid(), Groups: nil}
	if os.Geteuid() == 0 {
		ids = IDs{UID: 61234, GID: 61235}
	}
	for b.Loop() {
		if err := ids.Do(func() error { return nil }); err != nil {
			b.Skip(err)
		}
	}
}
