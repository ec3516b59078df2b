package escape

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// steal takes the address of the service, as another user where we are root, and reports whether
// a client of the service's comes to the thief.
func (w *world) steal(network string) (stolen bool) {
	address := map[string]string{"tcp4": w.tcp4, "tcp6": w.tcp6, "udp4": w.udp4, "udp6": w.udp6}[network]
	thief := bindAsOther(w.t, network, netip.MustParseAddrPort(address))
	if thief < 0 {
		return false
	}
	defer unix.Close(thief)
	c, err := net.Dial(network, address)
	if err != nil {
		return false
	}
	defer c.Close()
	if _, err := c.Write([]byte(w.nonce)); err != nil {
		return false
	}
	from := thief
	if strings.HasPrefix(network, "tcp") {
		if ready, err := fd.Poll(thief, unix.POLLIN, waitTimeout); err != nil || ready == 0 {
			return false
		}
		if from, _, err = unix.Accept4(thief, unix.SOCK_CLOEXEC); err != nil {
			return false
		}
		defer unix.Close(from)
	}
	if ready, err := fd.Poll(from, unix.POLLIN, waitTimeout); err != nil || ready == 0 {
		return false
	}
	got := make([]byte, 64)
	n, err := unix.Read(from, got)
	return err == nil && string(got[:n]) == w.nonce
}

// bindAsOther returns a socket with the address, -1 if the kernel refuses it.
func bindAsOther(t *testing.T, network string, address netip.AddrPort) int {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if os.Geteuid() == 0 { // a socket is of the id for files that its thread has
		if err := unix.Setfsuid(61500); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Setfsuid(0) }()
	}
	family, kind := unix.AF_INET, unix.SOCK_DGRAM
	var at unix.Sockaddr = &unix.SockaddrInet4{Port: int(address.Port()), Addr: [4]byte{127, 0, 0, 1}}
	if address.Addr().Is6() {
		family, at = unix.AF_INET6, &unix.SockaddrInet6{Port: int(address.Port()), Addr: address.Addr().As16()}
	}
	if strings.HasPrefix(network, "tcp") {
		kind = unix.SOCK_STREAM
	}
	thief, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	err = unix.SetsockoptInt(thief, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil {
		err = unix.Bind(thief, at)
	}
	if err == nil && kind == unix.SOCK_STREAM {
		err = unix.Listen(thief, 8)
	}
	if err != nil {
		_ = unix.Close(thief)
		return -1
	}
	return thief
}
