package process

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
	"activator/internal/sandbox"
	"activator/internal/spec"
)

// What an intruder is handed: a listener, a bound UDP socket and a bound unix
// datagram socket of the host, from 3 on.
const (
	listenerFD = 3 + iota
	packetFD
	unixFD
)

// intrude tries to turn what it inherited outward, to the host's TCP port and
// abstract name in args, and prints what came of it: an errno, or "done".
func intrude(args []string) {
	port, _ := strconv.Atoi(args[0])
	target := &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
	result := map[string]string{}
	note := func(name string, err error) {
		result[name] = "done"
		if err != nil {
			result[name] = err.Error()
		}
	}
	live, reset, shut := accepted(), accepted(), accepted()
	note("dissolve an accepted connection", dissolve(live, target))
	note("fast open by option", unix.SetsockoptInt(reset, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1))
	note("listen on a connection that was reset", listenAnew(reset))
	_ = unix.Shutdown(shut, unix.SHUT_RDWR)
	note("listen on a connection that was shut down", listenAnew(shut))
	note("lock a filter", unix.SetsockoptInt(packetFD, unix.SOL_SOCKET, unix.SO_LOCK_FILTER, 1))
	note("bind to an interface", unix.SetsockoptInt(listenerFD, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, 1))
	note("keep alive", unix.SetsockoptInt(live, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1))
	_, err := unix.IoctlGetInt(listenerFD, unix.SIOCGIFCONF) // a struct ifconf of no length
	note("list interfaces", err)
	note("abstract name", unix.Sendto(unixFD, []byte("x"), 0, &unix.SockaddrUnix{Name: args[1]}))
	// The listener last: it is spoilt.
	_ = unix.Shutdown(listenerFD, unix.SHUT_RDWR)
	note("fast open", fastOpen(target))
	note("dissolve the listener", dissolve(listenerFD, target))
	_ = json.NewEncoder(os.Stdout).Encode(result)
}

func accepted() int {
	fd, _, err := unix.Accept4(listenerFD, unix.SOCK_CLOEXEC)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	return fd
}

// dissolve is connect(AF_UNSPEC), which unbinds, and a connect to somewhere else.
func dissolve(fd int, target unix.Sockaddr) error {
	if err := ktest.Dissolve(fd); err != nil {
		return err
	}
	return unix.Connect(fd, target)
}

// listenAnew makes a dead connection a listener on some other port, with or
// without dissolving it first.
func listenAnew(fd int) error {
	_ = ktest.Dissolve(fd)
	any := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	bindErr := unix.Bind(fd, any)
	if err := unix.Listen(fd, 1); err != nil {
		return errors.Join(bindErr, err)
	}
	return nil
}

func fastOpen(target *unix.SockaddrInet4) error {
	return unix.Sendto(listenerFD, []byte("x"), unix.MSG_FASTOPEN, target)
}

// handed are the sockets, and what is to be reached with them.
type handed struct {
	files  []*os.File
	target *net.TCPListener
	name   string // the abstract name of a socket of the host
}

func hand(t *testing.T) handed {
	t.Helper()
	h := handed{name: "@activator-test-" + itoa(os.Getpid()) + t.Name()}
	local := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
	listener, err := net.ListenTCP("tcp4", local)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	packet, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer packet.Close()
	ours, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: fmt.Sprintf("%s-handed-%p", h.name, &h), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	h.name += fmt.Sprintf("%p", &h)
	theirs, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: h.name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = theirs.Close() })
	if h.target, err = net.ListenTCP("tcp4", local); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.target.Close() })
	for _, socket := range []interface{ File() (*os.File, error) }{listener, packet, ours} {
		file, err := socket.File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = file.Close() })
		h.files = append(h.files, file)
	}
	h.dial(t, listener.Addr())
	return h
}

// dial makes three connections for the intruder: the second is reset.
func (h handed) dial(t *testing.T, address net.Addr) {
	t.Helper()
	for i := range 3 {
		conn, err := net.Dial("tcp4", address.String())
		if err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
			continue
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
}

func (h handed) intruder(t *testing.T, box spec.Sandbox) map[string]string {
	t.Helper()
	process := helperSpec("intrude", itoa(h.target.Addr().(*net.TCPAddr).Port), h.name)
	process.FDNames = []string{"a", "b", "c"}
	process.Sandbox = box
	out, _ := start(t, process, h.files...).end(t)
	var result map[string]string
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return result
}

// Every way out that the seal closes is open without it, so that the probe is known
// to work.
func TestSeal(t *testing.T) {
	ktest.Filters(t)
	h := hand(t)
	open := h.intruder(t, spec.Sandbox{Connect: "any", Syscalls: "any"})
	if !reached(t, h.target) {
		t.Error("without the seal nothing got through")
	}
	listeners, connections := ktest.ListenersStay(t), ktest.ConnectionsStay(t)
	for name, result := range open {
		stays := listeners && slices.Contains([]string{"dissolve the listener", "fast open"}, name) || connections && strings.HasPrefix(name, "listen on a connection")
		if done := result == "done" || result == "operation now in progress"; done == stays || stays && result != unix.EINVAL.Error() {
			t.Errorf("without the seal: %s: %s", name, result)
		}
	}
	for name, box := range map[string]spec.Sandbox{
		"default": {Seal: true}, "all calls": {Seal: true, Syscalls: "any"}, "init": {Seal: true, Init: true},
		"new privileges": {Seal: true, NewPrivs: true}, "init, new privileges": {Seal: true, NewPrivs: true, Init: true},
	} {
		h = hand(t)
		sealed := h.intruder(t, box)
		if len(sealed) != len(open) {
			t.Errorf("%s: %v", name, sealed)
		}
		for probe, result := range sealed {
			allowed := probe == "keep alive" || probe == "abstract name" && sandbox.RunningKernel().Landlock < 6
			if allowed != (result == "done") || result == "operation now in progress" {
				t.Errorf("%s: %s: %s", name, probe, result)
			}
		}
		if reached(t, h.target) {
			t.Errorf("%s: something got through", name)
		}
	}
}

// reached reports whether somebody waits at the listener.
func reached(t *testing.T, listener *net.TCPListener) (waits bool) {
	t.Helper()
	conn, err := listener.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = conn.Control(func(fd uintptr) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		waits = err == nil && n > 0
	})
	if err != nil {
		t.Fatal(err)
	}
	return waits
}

// forbidden are calls of every kind that the default profile refuses, made with
// nothing in them.
func forbidden() {
	for _, c := range []struct {
		name   string
		number uintptr
		args   [3]uintptr
	}{
		{"mount", unix.SYS_MOUNT, [3]uintptr{}}, {"umount2", unix.SYS_UMOUNT2, [3]uintptr{}}, {"unshare", unix.SYS_UNSHARE, [3]uintptr{unix.CLONE_NEWUSER}},
		{"setns", unix.SYS_SETNS, [3]uintptr{}}, {"ptrace", unix.SYS_PTRACE, [3]uintptr{}}, {"bpf", unix.SYS_BPF, [3]uintptr{}},
		{"io_uring_setup", unix.SYS_IO_URING_SETUP, [3]uintptr{}}, {"keyctl", unix.SYS_KEYCTL, [3]uintptr{}}, {"pidfd_getfd", unix.SYS_PIDFD_GETFD, [3]uintptr{}},
		{"userfaultfd", unix.SYS_USERFAULTFD, [3]uintptr{1}}, {"perf_event_open", unix.SYS_PERF_EVENT_OPEN, [3]uintptr{}},
		{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, [3]uintptr{}}, {"clone3", unix.SYS_CLONE3, [3]uintptr{}}, {"listns", unix.SYS_LISTNS, [3]uintptr{}},
		{"personality", unix.SYS_PERSONALITY, [3]uintptr{0x40000}}, {"prctl", unix.SYS_PRCTL, [3]uintptr{unix.PR_SET_PTRACER}},
		{"socket", unix.SYS_SOCKET, [3]uintptr{unix.AF_VSOCK, unix.SOCK_STREAM, 0}}, {"raw socket", unix.SYS_SOCKET, [3]uintptr{unix.AF_INET, unix.SOCK_RAW, 1}},
		{"ioctl", unix.SYS_IOCTL, [3]uintptr{0, unix.TIOCSTI}}, {"connect", unix.SYS_CONNECT, [3]uintptr{}},
		{"getppid", unix.SYS_GETPPID, [3]uintptr{}}, {"route socket", unix.SYS_SOCKET, [3]uintptr{unix.AF_NETLINK, unix.SOCK_RAW, 0}},
		{"new", newestKnown + 1, [3]uintptr{}},
	} {
		_, _, errno := unix.RawSyscall(c.number, c.args[0], c.args[1], c.args[2])
		fmt.Printf("%s: %d\n", c.name, errno)
	}
}

const newestKnown = unix.SYS_RSEQ_SLICE_YIELD

func TestDefaultProfile(t *testing.T) {
	ktest.Filters(t)
	eperm, enosys := "1", strconv.Itoa(int(unix.ENOSYS))
	want := map[string]string{
		"io_uring_setup": enosys, "keyctl": enosys, "clone3": enosys, "listns": enosys, "new": enosys,
		"socket": strconv.Itoa(int(unix.EAFNOSUPPORT)), "getppid": "0", "route socket": "0",
	}
	for _, init := range []bool{false, true} {
		process := helperSpec("forbidden")
		process.Sandbox.Init = init
		out, _ := start(t, process).end(t)
		count := 0
		for line := range strings.Lines(out) {
			name, errno, _ := strings.Cut(strings.TrimSpace(line), ": ")
			expect := eperm
			if other, ok := want[name]; ok {
				expect = other
			}
			if errno != expect {
				t.Errorf("init %v: %s: errno %s, not %s", init, name, errno, expect)
			}
			count++
		}
		if count != 23 {
			t.Errorf("init %v: %s", init, out)
		}
	}
}

// A supervised call reaches whoever has the listener, with its arguments, and gets
// the answer that is given; the cookie tells the service's own network.
func TestListener(t *testing.T) {
	ktest.Filters(t)
	for _, box := range []spec.Sandbox{{Seal: true, Connect: "any"}, {Connect: "unix"}, {Seal: true, Connect: "unix", Init: true, NewPrivs: true}} {
		process := helperSpec("connect")
		process.Sandbox = box
		s := start(t, process)
		listener := s.TakeListener()
		if listener == nil || s.TakeListener() != nil {
			t.Fatalf("%+v: listener %v", box, listener)
		}
		number := answer(t, listener, unix.ECONNRESET)
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
		out, _ := s.end(t)
		if want := fmt.Sprintf("%v %d\n", unix.ECONNRESET, s.NetnsCookie()); number != unix.SYS_CONNECT || out != want {
			t.Errorf("%+v: call %d, %q, not %q", box, number, out, want)
		}
		if s.NetnsCookie() == 0 {
			t.Error("no cookie")
		}
	}
	s := start(t, helperSpec("exit", "0"))
	if s.TakeListener() != nil || s.NetnsCookie() != 0 {
		t.Error("a listener without supervision")
	}
}

// An untaken listener is closed with the process, a child that waits has one too.
func TestListenerIsNotLeftBehind(t *testing.T) {
	ktest.Filters(t)
	process := helperSpec("connect")
	process.Sandbox.Connect = "unix"
	if _, err := prepare(t, process); err != nil {
		t.Fatal(err)
	}
	process.Argv = []string{"/usr/is-not-there"}
	if s, err := prepare(t, process); err != nil || s.Go(t.Context()) == nil {
		t.Errorf("%v", err)
	}
}

// connectOnce prints what connect(2) said, and the cookie of its network.
func connectOnce() {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	cookie, _ := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	fmt.Println(unix.Connect(fd, &unix.SockaddrInet4{Port: 1}), cookie)
}

// answer waits for a notification, seccomp_unotify(2), answers with an errno and
// returns the number of the call.
func answer(t *testing.T, listener *os.File, errno unix.Errno) int {
	t.Helper()
	conn, err := listener.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var request [80]byte // struct seccomp_notif
	var failed syscall.Errno
	err = conn.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(poll, 0); err != nil || n == 0 {
			return false
		}
		_, _, failed = unix.Syscall(unix.SYS_IOCTL, fd, unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&request)))
		if failed == 0 {
			response := binary.LittleEndian.AppendUint64(nil, binary.LittleEndian.Uint64(request[:])) // id
			response = binary.LittleEndian.AppendUint64(response, 0)                                  // result
			response = binary.LittleEndian.AppendUint32(response, uint32(-int32(errno)))
			response = binary.LittleEndian.AppendUint32(response, 0) // flags
			_, _, failed = unix.Syscall(unix.SYS_IOCTL, fd, unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&response[0])))
		}
		return true
	})
	if err != nil || failed != 0 {
		t.Fatalf("%v, %v", err, failed)
	}
	return int(binary.LittleEndian.Uint32(request[16:])) // data.nr
}
