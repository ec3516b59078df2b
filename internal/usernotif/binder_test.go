package usernotif

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What the service in these tests binds, as "NETWORK ADDRESS", and the sockets it
// has by it.
var (
	at   string
	last int
)

// said is what an attempt has to say, where that is not ok or an error.
type said string

func (s said) Error() string { return string(s) }

// open makes a socket for at, which is not bound.
func open(at string) (int, unix.Sockaddr) {
	network, address, _ := strings.Cut(at, " ")
	domain, kind, protocol := unix.AF_INET, unix.SOCK_STREAM, 0
	only := strings.HasSuffix(network, "only")
	switch network = strings.TrimSuffix(network, "only"); network {
	case "tcp6", "udp6":
		domain = unix.AF_INET6
	case "mptcp6":
		domain, protocol = unix.AF_INET6, unix.IPPROTO_MPTCP
	case "unix", "unixgram", "unixpacket":
		domain = unix.AF_UNIX
	}
	switch network {
	case "udp4", "udp6", "unixgram":
		kind = unix.SOCK_DGRAM
	case "unixpacket":
		kind = unix.SOCK_SEQPACKET
	}
	fd, err := unix.Socket(domain, kind, protocol)
	if err != nil {
		fail(err)
	}
	if domain == unix.AF_UNIX {
		return fd, &unix.SockaddrUnix{Name: address}
	}
	to := netip.MustParseAddrPort(address)
	if domain == unix.AF_INET {
		return fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	v6Only := 0
	if only {
		v6Only = 1
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, v6Only); err != nil {
		fail(err)
	}
	return fd, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
}

// again is a process that the service has started, or has become: it is under the
// same filter.
func again() {
	fd, address := open(os.Getenv("INTERCEPT_TEST_AT"))
	err := unix.Bind(fd, address)
	if err == nil {
		err = unix.Listen(fd, 5)
	}
	if err == nil {
		last = fd
		err = answer()
	}
	fmt.Println(err)
	os.Exit(0)
}

// answer accepts a connection and tells the client its own address.
func answer() error {
	var fd int
	for {
		fds := []unix.PollFd{{Fd: int32(last), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return err
		}
		var err error
		if fd, _, err = unix.Accept(last); err == nil {
			break
		} else if err != unix.EAGAIN && err != unix.EINTR {
			return err
		}
	}
	defer unix.Close(fd)
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return err
	}
	text := textOf(peer)
	if _, err := unix.Write(fd, []byte(text)); err != nil {
		return err
	}
	return said(text)
}

func textOf(address unix.Sockaddr) string {
	switch a := address.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)).String()
	case *unix.SockaddrUnix:
		return strings.TrimSuffix(a.Name, "@") // unnamed
	}
	return "nobody"
}

// echo answers one datagram and says what came with it.
func echo() error {
	buf, more := make([]byte, 100), make([]byte, 200)
	n, oobn, _, from, err := unix.Recvmsg(last, buf, more, 0)
	if err != nil {
		return err
	}
	messages, err := unix.ParseSocketControlMessage(more[:oobn])
	if err != nil {
		return err
	}
	var with []string
	for _, m := range messages {
		with = append(with, fmt.Sprintf("%d/%d", m.Header.Level, m.Header.Type))
	}
	if err := unix.Sendto(last, buf[:n], 0, from); err != nil {
		return err
	}
	return said("with " + strings.Join(with, " "))
}

func init() {
	for name, attempt := range binding {
		attempts[name] = attempt
	}
}

var binding = map[string]func() error{
	"bind": func() error {
		fd, address := open(at)
		last = fd
		return unix.Bind(fd, address)
	},
	"bind with all set": func() error {
		fd, address := open(at)
		last = fd
		_ = unix.SetNonblock(fd, true)
		unix.CloseOnExec(fd)
		for _, o := range settings {
			if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil && err != unix.ENOPROTOOPT && err != unix.EOPNOTSUPP {
				return err
			}
		}
		return unix.Bind(fd, address)
	},
	"bind once more": func() error {
		_, address := open(at)
		return unix.Bind(last, address)
	},
	"listen": func() error { return unix.Listen(last, 7) },
	"name": func() error {
		address, err := unix.Getsockname(last)
		if err != nil {
			return err
		}
		return said(textOf(address))
	},
	"flags": func() error {
		status, err := unix.FcntlInt(uintptr(last), unix.F_GETFL, 0)
		if err != nil {
			return err
		}
		flags, err := unix.FcntlInt(uintptr(last), unix.F_GETFD, 0)
		if err != nil {
			return err
		}
		return said(fmt.Sprintf("non-blocking %v, close-on-exec %v", status&unix.O_NONBLOCK != 0, flags&unix.FD_CLOEXEC != 0))
	},
	"settings": func() error {
		var list []string
		for _, o := range settings {
			if value, err := unix.GetsockoptInt(last, o.level, o.name); err == nil {
				list = append(list, fmt.Sprintf("%d/%d=%d", o.level, o.name, value))
			}
		}
		return said(strings.Join(list, " "))
	},
	"answer":   answer,
	"echo":     echo,
	"child":    func() error { return startAgain("") },
	"executed": func() error { return startAgain("exec") },

	"bind the listener there": func() error { _, address := open(at); return unix.Bind(fdListener, address) },
	"bind the connection there": func() error {
		var buf [1]byte
		for { // until the client is gone and the socket over
			if n, err := unix.Read(fdAccepted, buf[:]); n <= 0 && err != unix.EINTR {
				break
			}
		}
		_ = unix.Shutdown(fdAccepted, unix.SHUT_RDWR)
		_, address := open(at)
		return unix.Bind(fdAccepted, address)
	},
	"bind without a family": func() error {
		fd, _ := open("tcp4 0.0.0.0:1")
		last = fd
		raw := [16]byte{2: byte(port(at) >> 8), 3: byte(port(at))}
		_, _, errno := unix.Syscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&raw)), 16)
		if errno != 0 {
			return errno
		}
		return nil
	},
	"swap the descriptor": swapDescriptor,
	"swap the address":    swapAddress,
}

func port(at string) int {
	_, address, _ := strings.Cut(at, " ")
	return int(netip.MustParseAddrPort(address).Port())
}

// settings are what the service sets before it binds.
var settings = []struct{ level, name, value int }{
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
	{unix.SOL_SOCKET, unix.SO_RCVBUF, 50000},
	{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
	{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 77},
	{unix.IPPROTO_IP, unix.IP_TOS, 16},
	{unix.SOL_SOCKET, unix.SO_PRIORITY, 3},
	{unix.IPPROTO_IP, unix.IP_PKTINFO, 1},
	{unix.IPPROTO_IP, unix.IP_RECVTTL, 1},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1},
	{unix.SOL_SOCKET, unix.SO_PASSCRED, 1},
}

func startAgain(how string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	env := slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "INTERCEPT_TEST_SERVICE=") })
	env = append(env, "INTERCEPT_TEST_SERVICE=again", "INTERCEPT_TEST_AT="+at)
	if how == "exec" {
		return syscall.Exec(self, []string{self}, env)
	}
	c := exec.Command(self)
	c.Env = env
	out, err := c.Output()
	if err != nil {
		return err
	}
	return said(strings.TrimSpace(string(out)))
}

const swaps = 400 // bounded: each is answered

// swapDescriptor binds a number at which another thread changes what stands there: a
// socket of its own, the host's listener, the host's connection.
func swapDescriptor() error {
	own, address := open(at)
	const number = 50
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		for {
			for _, fd := range []int{own, fdListener, fdAccepted} {
				_ = unix.Dup2(fd, number)
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	for range swaps {
		_ = unix.Bind(number, address)
	}
	close(stop)
	<-done
	return nil
}

// swapAddress binds an address that another thread changes: the target's port, and
// the one below it.
func swapAddress() error {
	raw := new([4]uint32) // struct sockaddr_in, little-endian
	head := func(port int) uint32 { return unix.AF_INET | uint32(port>>8)<<16 | uint32(port&0xff)<<24 }
	raw[0] = head(port(at))
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		for {
			atomic.StoreUint32(&raw[0], head(port(at)))
			atomic.StoreUint32(&raw[0], head(port(at)-1))
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	given := 0
	for range swaps {
		fd, _ := open("tcp4 0.0.0.0:1")
		_, _, errno := unix.Syscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(raw)), 16)
		if n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); errno == 0 && err == nil && n != 0 {
			given++
		}
		unix.Close(fd)
	}
	close(stop)
	<-done
	return said(fmt.Sprint(given > 0 && given < swaps))
}
