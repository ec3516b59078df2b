package escape

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
	"activator/test/escape/wire"
)

// What the activator does on behalf of a service it does with the service's rights: these
// have it do something that the service could not do itself.

// onKernels runs a test as on older kernels, too.
func onKernels(t *testing.T, test func(t *testing.T, kernel string)) {
	for name, kernel := range map[string]string{"this one": "", "5.15": "5.15", "no Landlock, no BPF": noLandlock} {
		t.Run(name, func(t *testing.T) {
			if kernel != "" {
				ktest.OldKernel(t, program(t, "oldkernel"), kernel)
			}
			t.Parallel()
			test(t, kernel)
		})
	}
}

// hostFolder is a folder of a file system that counts its inodes from 1, that is not the
// service's /tmp.
func hostFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "esc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC {
		t.Fatalf("/dev/shm is no tmpfs: %v", err)
	}
	return dir
}

// victimSocket is a stream socket of the host's that only we may connect to; it tells what
// it hears.
func victimSocket(t *testing.T, w *world, path string) (heard chan string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	heard = make(chan string, 8)
	w.serveUntilEnd(l, func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 100)
			_ = c.SetDeadline(time.Now().Add(waitTimeout))
			n, _ := c.Read(b)
			heard <- string(b[:n]) // before the client sees an end
			c.Close()
		}
	})
	return heard
}

const misled = `[[socket]]
listen = ["tcp://127.0.0.1:%[1]s"]
target = "unix:///tmp/target"

[service]
# %[2]s %[3]s %[4]s
exec = [%[5]q, "mislead", "/tmp/target", "/dev/shm/NAME/victim"]
handover = "proxy"
start_timeout = "3s"
hold = "infinity"

[sandbox]
read_only = ["/dev/shm/NAME"]
`

// TestMisled: with handover = "proxy" a client is carried to the program alone, also when its
// path leads to a socket of the host's that only we may connect to, and it listens at a
// decoy of the same number.
func TestMisled(t *testing.T) {
	t.Parallel()
	onKernels(t, misledAt)
}

func misledAt(t *testing.T, kernel string) {
	w := newWorld(t)
	dir := hostFolder(t)
	for i := range 200 { // the service's own file system has a few inodes already
		if err := os.WriteFile(fmt.Sprintf("%s/%d", dir, i), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	heard := victimSocket(t, w, filepath.Join(dir, "victim"))
	s := startActivator(t, w, wire.Probe{}, kernel, strings.ReplaceAll(misled, "NAME", filepath.Base(dir)), "").(*running)
	c, err := net.Dial("tcp", w.tcp4)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(w.nonce + "\n")); err != nil {
		t.Fatal(err)
	}
	// On busy processors the first runs may end before it stands.
	if !s.untilAfter("the decoy stands", "service not started") {
		t.Errorf("the probe proves nothing:\n%s", s.output())
	}
	select {
	case got := <-heard:
		t.Errorf("GOT OUT: a client of the service is connected to the host, which hears %q", got)
	default:
	}
}

// until waits for a line of the activator's log, and says whether it came.
func (a *running) until(text string) bool { return a.untilAfter("", text) }

// untilAfter waits for a line after another one.
func (a *running) untilAfter(first, text string) bool {
	for deadline := time.Now().Add(waitTimeout); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if _, rest, there := strings.Cut(a.output(), first); there && strings.Contains(rest, text) {
			return true
		}
	}
	return false
}

// asService reports whether credentials are the service's: as root it has an id of its own,
// and in any case a process that is not the activator.
func (a *running) asService(c *unix.Ucred) bool {
	return int(c.Pid) != a.cmd.Process.Pid && (c.Uid != 0 || os.Geteuid() != 0)
}

func credentialsOf(t *testing.T, c *net.UnixConn) (ucred *unix.Ucred) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err == nil {
		err = errors.Join(raw.Control(func(fd uintptr) {
			ucred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		}), err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ucred
}

const identified = `[[socket]]
listen = ["tcp://127.0.0.1:%[1]s"]

[service]
# %[2]s %[3]s %[4]s
exec = [%[5]q, "identify", "/dev/shm/NAME/listener", "/dev/shm/NAME/server"]

[sandbox]
connect = "CONNECT"
writable = ["/dev/shm/NAME"]
`

// TestCredentials: the peer of a service sees the service, whether it listens or
// connects, and not the activator, which answers its calls.
func TestCredentials(t *testing.T) {
	t.Parallel()
	onKernels(t, func(t *testing.T, kernel string) {
		for _, connect := range []string{"unix", "any"} {
			t.Run(connect, func(t *testing.T) {
				t.Parallel()
				credentialsAt(t, kernel, connect)
			})
		}
	})
}

func credentialsAt(t *testing.T, kernel, connect string) {
	w := newWorld(t)
	dir := hostFolder(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/server", Net: "unix"})
	if err == nil {
		err = os.Chmod(dir+"/server", 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := startActivator(t, w, wire.Probe{}, kernel, strings.NewReplacer("NAME", filepath.Base(dir), "CONNECT", connect).Replace(identified), "").(*running)
	client, err := net.Dial("tcp", w.tcp4)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if !s.until("it listens") {
		t.Fatalf("it does not:\n%s", s.output())
	}
	accepted, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	dialed, err := net.Dial("unix", dir+"/listener")
	if err != nil {
		t.Fatal(err)
	}
	defer dialed.Close()
	for what, c := range map[string]*net.UnixConn{"connects": accepted, "listens": dialed.(*net.UnixConn)} {
		if ucred := credentialsOf(t, c); !s.asService(ucred) {
			t.Errorf("GOT OUT: it %s as %+v; the activator is %d", what, *ucred, s.cmd.Process.Pid)
		}
	}
}

const misreported = `[[socket]]
listen = ["tcp://127.0.0.1:%[1]s"]

[service]
# %[2]s %[3]s %[4]s
exec = [%[5]q, "misreport", "/dev/shm/NAME", "READY=1"]
notify = true

[sandbox]
capabilities = ["sys_chroot"]
read_only = ["/dev/shm/NAME"]
`

// TestMisreported: what services report to is what stood there before the program, and not
// what has its name in a root that the program has chosen.
func TestMisreported(t *testing.T) {
	t.Parallel()
	onKernels(t, misreportedAt)
}

func misreportedAt(t *testing.T, kernel string) {
	w := newWorld(t)
	dir := hostFolder(t)
	if err := os.Mkdir(dir+"/run", 0o755); err != nil {
		t.Fatal(err)
	}
	victim, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/run/.notify", Net: "unixgram"})
	if err == nil {
		err = os.Chmod(dir+"/run/.notify", 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer victim.Close()
	s := startActivator(t, w, wire.Probe{}, kernel, strings.ReplaceAll(misreported, "NAME", filepath.Base(dir)), "").(*running)
	client, err := net.Dial("tcp", w.tcp4)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if !s.until("it has reported") {
		t.Errorf("the probe proves nothing:\n%s", s.output())
	}
	if heard := hears(victim); heard != "" {
		t.Errorf("GOT OUT: a socket of the host's that only we may send to hears %q", heard)
	}
	if !s.until("state=running") {
		t.Error("and the report did not reach us")
	}
}

// hears is what a datagram socket has got, if anything. What was sent is there when the
// sender says so.
func hears(c net.PacketConn) string {
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	b := make([]byte, 100)
	n, _, _ := c.ReadFrom(b)
	return string(b[:n])
}

const echoing = `[[socket]]
listen = ["unixgram://%[4]s"]

[service]
# %[1]s %[2]s %[3]s
exec = [%[5]q, "echo"]
warm = false
`

// TestPoses: an answer goes to the client, and not to the socket of the host's that has its
// name: that is its name in a network, or in a mount namespace, of its own, or was the
// client's before it put a link there.
func TestPoses(t *testing.T) {
	t.Parallel()
	const apart = unix.CLONE_NEWUSER
	for _, tt := range []pose{
		{"a path of its own mount namespace", apart | unix.CLONE_NEWNS, "/victim", true},
		{"a link", 0, "/victim.link", false},
		{"a name of its own network", apart | unix.CLONE_NEWNET, "@", false},
	} {
		t.Run(tt.what, func(t *testing.T) {
			t.Parallel()
			onKernels(t, tt.test)
		})
	}
}

func (p pose) test(t *testing.T, kernel string) {
	w := newWorld(t)
	dir := hostFolder(t)
	name := dir + p.name
	if p.name == "@" {
		name = "@" + w.nonce
	}
	victim, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: strings.TrimSuffix(name, ".link"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer victim.Close()
	s := startActivator(t, w, wire.Probe{}, kernel, echoing, "").(*running)
	for range 2 { // the first one starts it
		out, err := p.start(w, dir, name)
		if err != nil || strings.HasPrefix(out, "answered "+w.nonce) != p.answered || strings.HasPrefix(out, "nothing") == p.answered {
			t.Errorf("the client: %v, %q", err, out)
		}
		_ = os.Remove(dir + "/victim.link")
	}
	if !s.until("answered true <nil>") { // what it says takes another way than the answer
		t.Error("the service has not answered: the probe proves nothing")
	}
	if heard := hears(victim); heard != "" {
		t.Errorf("GOT OUT: a socket of the host's hears %q", heard)
	}
}

// pose is a client whose name is that of a victim.
type pose struct {
	what     string
	flags    uintptr // of clone(2)
	name     string  // in the victim's folder; "@": an abstract one
	answered bool    // the client itself
}

func (p pose) start(w *world, dir, name string) (string, error) {
	folder := "" // that it has mounted over
	if p.flags&unix.CLONE_NEWNS != 0 {
		folder = dir
	}
	wait := 2 // seconds
	if p.answered {
		wait = 60
	}
	cmd := exec.Command(w.binary, "pose", folder, name, w.unixgram, w.nonce, fmt.Sprint(wait))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: p.flags}
	if p.flags != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.Output()
	return string(out), err
}

const lowPort = `[[socket]]
listen = ["tcp://127.0.0.1:%[1]s"]

[service]
# %[2]s %[3]s %[4]s
exec = [%[5]q, "low-port"]

[sandbox]
connect = "any"
network = "/proc/PID/ns/net"
`

// TestLowPort: in a network that is not its own a service has no right to a low port, and has
// none of ours.
func TestLowPort(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root has a right that could be lent")
	}
	w := newWorld(t)
	other := exec.Command(w.binary, "sleep")
	other.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	}()
	s := startActivator(t, w, wire.Probe{}, "", strings.ReplaceAll(lowPort, "PID", fmt.Sprint(other.Process.Pid)), "").(*running)
	client, err := net.Dial("tcp", w.tcp4)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	switch {
	case !s.until("port 81: "):
		t.Errorf("the probe proves nothing:\n%s", s.output())
	case !strings.Contains(s.output(), "port 81: permission denied"):
		t.Error("GOT OUT: it has port 81 of a network that is not its own")
	}
}
