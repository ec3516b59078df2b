package relay

import (
	"encoding/json"
	"errors"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// MakerName is argv[0] of the maker: the activator's own binary. argv[1] is the
// number of its socket.
const MakerName = "activator-relay"

// maxFiles is the most descriptors of one message: SCM_MAX_FD, unix(7).
const maxFiles = 253

// order is what the maker is asked for, as JSON in one message. With More the
// message carries a socket of the realm that the flow sockets are for, else a
// new realm is made.
type order struct {
	More          bool   `json:",omitempty"`
	Domain        int    // of the inner socket
	Address       []byte `json:",omitempty"` // struct sockaddr of the inner socket
	V6Only        bool   `json:",omitempty"`
	ReceiveBuffer int    `json:",omitempty"` // bytes, as SO_RCVBUF is set
	Flows         []int  // the domains of the flow sockets, one each
}

// delivery is the answer; the message carries the inner socket, with Node an
// O_PATH descriptor of its node, and the flow sockets, in that order.
type delivery struct {
	Node  bool   `json:",omitempty"`
	Step  string `json:",omitempty"` // what went wrong, and how
	Errno int    `json:",omitempty"`
}

// stepError is an error of the maker.
type stepError struct {
	step string
	err  error
}

func (e *stepError) Error() string { return e.step + ": " + e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// Namespaces are a property of a thread: in an init the main goroutine is on the
// main thread, and stays there.
func init() {
	if IsMaker() {
		runtime.LockOSThread()
	}
}

// IsMaker reports whether this process was started as the maker.
func IsMaker() bool { return len(os.Args) == 2 && os.Args[0] == MakerName }

// Make is the maker: it makes realms and sockets in them until its socket ends.
// It never returns, starts no goroutine and logs nothing. It must stand at the
// beginning of main.
func Make() {
	// A manager that stops a whole control group means the activator, which ends this
	// process when the last service has ended: until then clients may come.
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM)
	control, err := strconv.Atoi(os.Args[1])
	if err != nil {
		os.Exit(2)
	}
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		os.Exit(1)
	}
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = shut()
	}
	for {
		if err := serveOrder(control, err); err != nil {
			os.Exit(1)
		}
		// A realm is to die with its sockets: do not stay in it.
		if err == nil && unix.Setns(home, unix.CLONE_NEWNET) != nil {
			os.Exit(1)
		}
	}
}

// shut takes from the maker what it does not need: its own capabilities are worth
// something only in the user namespace it was born into, and it sees no file.
func shut() error {
	for _, option := range []int{unix.PR_SET_NO_NEW_PRIVS, unix.PR_SET_DUMPABLE} {
		on := 0
		if option == unix.PR_SET_NO_NEW_PRIVS {
			on = 1
		}
		if err := unix.Prctl(option, uintptr(on), 0, 0, 0); err != nil {
			return os.NewSyscallError("prctl", err)
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount private", err)
	}
	// /proc is there: this binary was found in it.
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("relay", "/proc", "tmpfs", flags, "size=1M,mode=0700"); err != nil {
		return os.NewSyscallError("mount tmpfs", err)
	}
	if err := unix.Chroot("/proc"); err != nil {
		return os.NewSyscallError("chroot", err)
	}
	unix.Umask(0)
	return os.NewSyscallError("chdir", unix.Chdir("/"))
}

// serveOrder serves one; an error ends the maker.
func serveOrder(control int, house error) error {
	text, passed, err := receiveMessage(control)
	if err != nil {
		return err
	}
	defer closeAll(passed)
	var o order
	if err := json.Unmarshal(text, &o); err != nil {
		return err
	}
	var made []int
	var d delivery
	if err = house; err == nil {
		made, d.Node, err = o.carryOut(passed)
	}
	defer closeAll(made)
	if err != nil {
		d = delivery{Step: "relay", Errno: int(unix.EINVAL)}
		var step *stepError
		var call *os.SyscallError
		var errno unix.Errno
		if errors.As(err, &step) {
			d.Step = step.step
		} else if errors.As(err, &call) {
			d.Step = call.Syscall
		}
		if errors.As(err, &errno) {
			d.Errno = int(errno)
		}
		return sendMessage(control, &d, nil)
	}
	return sendMessage(control, &d, made)
}

// carryOut returns the descriptors made, also with an error.
func (o *order) carryOut(passed []int) (made []int, node bool, err error) {
	if o.More {
		if len(passed) != 1 {
			return nil, false, unix.EBADF
		}
		err = enter(passed[0])
	} else {
		made, node, err = o.found()
	}
	for _, domain := range o.Flows {
		if err != nil {
			break
		}
		var fd int
		if fd, err = flowSocket(domain); err == nil {
			made = append(made, fd)
		}
	}
	return made, node, err
}

// enter enters the network namespace of a socket.
func enter(socket int) error {
	namespace, err := unix.IoctlRetInt(socket, unix.SIOCGSKNS)
	if err != nil {
		return &stepError{"ioctl SIOCGSKNS", err}
	}
	defer unix.Close(namespace)
	if err := unix.Setns(namespace, unix.CLONE_NEWNET); err != nil {
		return &stepError{"setns", err}
	}
	return nil
}

// found makes a realm, enters it and makes its inner socket.
func (o *order) found() (made []int, node bool, err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, false, &stepError{"unshare network", err}
	}
	switch o.Domain {
	case unix.AF_INET:
		err = everythingLocal(unix.AF_INET)
	case unix.AF_INET6:
		err = everythingLocal(unix.AF_INET, unix.AF_INET6)
	}
	if err != nil {
		return nil, false, &stepError{"realm", err}
	}
	fd, err := unix.Socket(o.Domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, false, &stepError{"socket", err}
	}
	made = append(made, fd)
	if err := o.prepare(fd); err != nil {
		return made, false, err
	}
	a := rawAddr{n: uint32(len(o.Address))}
	copy(a.b[:], o.Address)
	path, abstract := a.path()
	if o.Domain != unix.AF_UNIX || abstract {
		if err := bind(fd, &a); err != nil {
			return made, false, &stepError{"bind " + a.String(), err}
		}
		return made, false, nil
	}
	place, err := bindNode(fd, &a, string(path))
	if err != nil {
		return made, false, &stepError{"bind " + a.String(), err}
	}
	return append(made, place), true, nil
}

// prepare sets the options of an inner socket. The ones of the realm let it bind
// addresses of the host, and answer from them when the service names one
// (IPV6_PKTINFO). SO_REUSEADDR is for clients with the port of the service, see
// [Datagrams] and bindFlow.
func (o *order) prepare(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, o.ReceiveBuffer); err != nil {
		return &stepError{"setsockopt SO_RCVBUF", err}
	}
	var options [][3]int
	switch o.Domain {
	case unix.AF_INET:
		options = [][3]int{{unix.SOL_IP, unix.IP_FREEBIND, 1}, {unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}}
	case unix.AF_INET6:
		only := 0
		if o.V6Only {
			only = 1
		}
		options = [][3]int{{unix.SOL_IPV6, unix.IPV6_V6ONLY, only}, {unix.SOL_IPV6, unix.IPV6_FREEBIND, 1},
			{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}}
	}
	for _, s := range options {
		if err := unix.SetsockoptInt(fd, s[0], s[1], s[2]); err != nil {
			return &stepError{"setsockopt", err}
		}
	}
	return nil
}

// bindNode binds a path, the same text as on the host, in our empty root, and
// returns an O_PATH descriptor of the node, by which the flow sockets find it. The
// name goes at once: the next realm may want it.
func bindNode(fd int, a *rawAddr, path string) (int, error) {
	for i := 1; i < len(path); i++ {
		if path[i] == '/' {
			if err := unix.Mkdir(path[:i], 0o700); err != nil && err != unix.EEXIST {
				return -1, err
			}
		}
	}
	if err := bind(fd, a); err != nil {
		return -1, err
	}
	place, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if e := unix.Unlink(path); err == nil && e != nil {
		_ = unix.Close(place)
		return -1, e
	}
	return place, err
}

// flowSocket makes a flow socket, unbound, in the namespace of this thread.
// IP_TRANSPARENT lets it have any client's address, ip(7).
func flowSocket(domain int) (int, error) {
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, &stepError{"socket", err}
	}
	switch domain {
	case unix.AF_INET:
		err = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1)
	case unix.AF_INET6:
		err = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_V6ONLY, 1)
		}
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, &stepError{"setsockopt", err}
	}
	return fd, nil
}
