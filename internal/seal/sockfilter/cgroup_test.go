package sockfilter

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/cgroup"
	"activator/internal/ktest"
	"activator/internal/netns"
	"activator/internal/spec"
)

// roleVariable makes the test binary one of the processes under test.
const (
	roleVariable = "REPLYONLY_ROLE"
	roleVictim   = "victim"
	roleIntruder = "intruder"
)

// role returns a child in a role.
func role(name string) *exec.Cmd {
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), roleVariable+"="+name)
	c.Stderr = os.Stderr
	return c
}

// groups lists the names of the groups below our own cgroup.
func groups(t *testing.T, p *Programs) []string {
	t.Helper()
	own, err := p.groups.OpenOwn()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = own.Close() }()
	names, err := own.Readdirnames(-1)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, groupPrefix) })
}

// eventually waits for what the kernel does in its own time.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(5 * time.Minute)
	for !done() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

func TestNothingStays(t *testing.T) {
	p := open(t, 0)
	sockets, err := p.MakeSockets([]spec.Kind{udp4(), udp6()})
	if err != nil {
		t.Fatal(err)
	}
	defer closeFiles(sockets)
	for _, name := range groups(t, p) {
		if strings.HasPrefix(name, fmt.Sprint(groupPrefix, os.Getpid(), "-")) {
			t.Errorf("%s is still there", name)
		}
	}
}

// The programs stay in force when the directory is gone, and with it their loader.
func TestOutlivesPrograms(t *testing.T) {
	p := open(t, 0)
	onWire(t, func(w *wire) {
		fd := fdOf(t, sealed(t, p, udp4()))
		port := w.bound(fd, udp4())
		w.must("close", p.Close())
		w.must("close again", p.Close())
		w.heard(fd, port, client4)
		if err := unix.Sendto(fd, []byte("x"), 0, sockaddr(client4, false)); err != nil {
			t.Errorf("to a client: %v", err)
		}
		if err := unix.Sendto(fd, []byte("x"), 0, sockaddr(other4, false)); !errors.Is(err, unix.EPERM) {
			t.Errorf("to a stranger: %v, want %v", err, unix.EPERM)
		}
	})
}

// victim is killed while it has a group.
func victim() {
	p, err := Open(1)
	if err == nil {
		p.make = func(cgroup int, kinds []spec.Kind) ([]int, error) {
			fds, err := netns.MakeSocketsInGroup(cgroup, kinds)
			fmt.Println(len(fds), err)
			ktest.Hang()
			return fds, err
		}
		_, err = p.MakeSockets([]spec.Kind{udp4()})
	}
	fmt.Println(err)
	os.Exit(1)
}

func TestKilled(t *testing.T) {
	p := open(t, 0)
	c := role(roleVictim)
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "1 <nil>\n" {
		t.Errorf("victim says %q, %v", line, err)
	}
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", c.Process.Pid)); err != nil || len(text) > 0 {
		t.Errorf("the victim has children: %s, %v", text, err)
	}
	group := func(name string) bool { return strings.HasPrefix(name, fmt.Sprint(groupPrefix, c.Process.Pid, "-")) }
	if !slices.ContainsFunc(groups(t, p), group) {
		t.Error("the victim had no group")
	}
	sweep(t, p)
	if !slices.ContainsFunc(groups(t, p), group) {
		t.Error("a group in use was removed")
	}
	_ = c.Process.Kill()
	_ = c.Wait()
	if !slices.ContainsFunc(groups(t, p), group) {
		t.Error("nothing was left, which is better than we know how to")
	}
	eventually(t, "the group goes", func() bool {
		sweep(t, p) // what every start of the activator does
		return !slices.ContainsFunc(groups(t, p), group)
	})
}

func sweep(t *testing.T, p *Programs) {
	t.Helper()
	if err := p.groups.Sweep(); err != nil {
		t.Fatal(err)
	}
}

func TestSweepKeepsOthers(t *testing.T) {
	p := open(t, 0)
	own, err := p.groups.OpenOwn()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = own.Close() }()
	foreign := "replyonly-test-" + fmt.Sprint(os.Getpid())
	if _, err := withFD(own, func(fd int) (int, error) { return 0, unix.Mkdirat(fd, foreign, 0o700) }); err != nil {
		t.Fatal(err)
	}
	ours, err := p.groups.Make()
	if err != nil {
		t.Fatal(err)
	}
	sweep(t, p)
	if !ours.IsCurrent() {
		t.Error("a group in use was removed")
	}
	ours.Close()
	if _, err := withFD(own, func(fd int) (int, error) { return 0, unix.Unlinkat(fd, foreign, unix.AT_REMOVEDIR) }); err != nil {
		t.Errorf("a cgroup of somebody else: %v", err)
	}
}

// intruder receives a socket by SCM_RIGHTS, in a network namespace and a cgroup
// that have nothing to do with it, and tries to send.
func intruder() {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(3, make([]byte, 1), oob, 0)
	messages, parse := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || parse != nil || len(messages) != 1 {
		fmt.Println("no socket:", err, parse)
		os.Exit(1)
	}
	fds, _ := unix.ParseUnixRights(&messages[0])
	var errno unix.Errno
	errors.As(unix.Sendto(fds[0], []byte("x"), 0, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}}), &errno)
	fmt.Println(int(errno))
	os.Exit(0)
}

func TestPassedOn(t *testing.T) {
	p := open(t, 0)
	socket := sealed(t, p, udp4())
	copied, err := unix.Dup(fdOf(t, socket))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(copied) }()
	if err := unix.Sendto(copied, []byte("x"), 0, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}}); !errors.Is(err, unix.EPERM) {
		t.Errorf("a duplicate: %v, want %v", err, unix.EPERM)
	}
	for _, tt := range []struct {
		name string
		fd   int
		want unix.Errno
	}{{"sealed", copied, unix.EPERM}, {"plain", plainSocket(t, udp4()), 0}} {
		if got := intrude(t, tt.fd); got != fmt.Sprintln(int(tt.want)) {
			t.Errorf("%s: the intruder got errno %q, want %d", tt.name, got, tt.want)
		}
	}
}

func intrude(t *testing.T, fd int) string {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(pair[0]) }()
	theirs := os.NewFile(uintptr(pair[1]), "socket pair")
	defer func() { _ = theirs.Close() }()
	if err := unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(fd), nil, 0); err != nil {
		t.Fatal(err)
	}
	c := role(roleIntruder)
	c.ExtraFiles = []*os.File{theirs}
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	out, err := c.Output()
	if err != nil {
		t.Errorf("intruder: %v", err)
	}
	return string(out)
}

// What somebody attached to a cgroup above stays in force beside ours; where it
// forbids others, the error says so.
func TestAbove(t *testing.T) {
	p := open(t, 0)
	above, err := p.groups.Make()
	if err != nil {
		t.Fatal(err)
	}
	defer above.Close()
	egress := attachRefusal(t, above)
	below := inside(t, above)
	if err := p.attach(below); err != nil {
		t.Fatal(err)
	}
	sockets, err := p.makeIn(below, []spec.Kind{udp4()})
	defer closeFiles(sockets)
	if err != nil {
		t.Fatal(err)
	}
	below.Close()
	if err := p.Admit(sockets[0]); err != nil {
		t.Fatal(err)
	}
	fd := fdOf(t, sockets[0])
	if err := unix.Sendto(fd, []byte("x"), 0, heardHere(t, fd)); !errors.Is(err, unix.EPERM) {
		t.Errorf("what is refused above: %v, want %v", err, unix.EPERM)
	}

	alone, err := p.groups.Make()
	if err != nil {
		t.Fatal(err)
	}
	defer alone.Close()
	exclusive := attachment{target: uint32(fdOf(t, alone.Dir())), program: uint32(egress), attachType: unix.BPF_CGROUP_INET_EGRESS}
	if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&exclusive), unsafe.Sizeof(exclusive)); err != nil {
		t.Fatal(err)
	}
	below = inside(t, alone)
	defer below.Close()
	if err := p.attach(below); !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "forbids others") {
		t.Errorf("below a program that wants to be alone: %v", err)
	}
}

// heardHere lets the socket hear a client on the loopback, and returns its address.
func heardHere(t *testing.T, fd int) unix.Sockaddr {
	t.Helper()
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Sendto(plainSocket(t, udp4()), []byte("x"), 0, at); err != nil {
		t.Fatal(err)
	}
	_, from, err := unix.Recvfrom(fd, make([]byte, 1), 0)
	if err != nil {
		t.Fatal(err)
	}
	return from
}

// attachRefusal attaches a program that refuses every packet.
func attachRefusal(t *testing.T, r *cgroup.Group) (fd int) {
	t.Helper()
	h := hooks()[len(hooks())-1]
	h.build = func(tables) *program {
		refuse := newProgram()
		refuse.result(0)
		return refuse
	}
	loaded, err := loadProgram(h, tables{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = loaded.Close() })
	if err := attach(fdOf(t, r.Dir()), fdOf(t, loaded), h); err != nil {
		t.Fatal(err)
	}
	return fdOf(t, loaded)
}

// inside makes a group in a group.
func inside(t *testing.T, r *cgroup.Group) *cgroup.Group {
	t.Helper()
	below, err := r.MakeBelow(groupPrefix + "inside")
	if err != nil {
		t.Fatal(err)
	}
	return below
}

// A child that goes wrong, in every way that we know.
func TestMakingGoesWrong(t *testing.T) {
	p := open(t, 0)
	refused := func(err error) func(int, []spec.Kind) ([]int, error) {
		return func(int, []spec.Kind) ([]int, error) { return nil, os.NewSyscallError("clone3", err) }
	}
	for _, tt := range []struct {
		name string
		make func(int, []spec.Kind) ([]int, error)
		want error
		cure string
	}{
		{"no process left", refused(unix.EAGAIN), unix.EAGAIN, "TasksMax="},
		{"clone3 refused", refused(unix.ENOSYS), unix.ENOSYS, "seccomp"},
		{"threaded", refused(unix.EOPNOTSUPP), unix.EOPNOTSUPP, "cgroup of its own"},
		{"no descriptor left", refused(unix.EMFILE), unix.EMFILE, "LimitNOFILE="},
		{"not a cgroup", func(_ int, kinds []spec.Kind) ([]int, error) {
			null, err := os.Open("/")
			if err != nil {
				return nil, err
			}
			defer null.Close()
			return netns.MakeSocketsInGroup(fdOf(t, null), kinds)
		}, unix.EBADF, ""},
		{"outside of the cgroup", func(_ int, kinds []spec.Kind) (fds []int, err error) {
			for _, k := range kinds {
				fd, err := unix.Socket(k.Family, k.Type|unix.SOCK_CLOEXEC, k.Protocol)
				if err != nil {
					return fds, err
				}
				fds = append(fds, fd)
			}
			return fds, nil
		}, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p.make = tt.make
			sockets, err := p.MakeSockets([]spec.Kind{udp4()})
			var known *Error
			if len(sockets) != 0 || !errors.As(err, &known) || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(known.Cure, tt.cure) {
				t.Fatalf("got %v, %v", sockets, err)
			}
			if tt.want == nil && known.Step != stepTrial {
				t.Errorf("got %v", err)
			}
			t.Log(err)
		})
	}
}
