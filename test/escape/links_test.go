package escape

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"testing"

	"activator/internal/ktest"
	"activator/test/escape/wire"

	"golang.org/x/sys/unix"
)

// attackOnLinks is attack in a network of its own that has two links besides lo, tap0 and tap1. On tap0 are
// clients, fe80::77 and 169.254.7.7. On tap1 is nobody who has asked: what leaves there is heard by the
// witness "other link". What this thread starts is in its network.
func attackOnLinks(t *testing.T, c column, p wire.Probe) (r wire.Result) {
	t.Helper()
	ktest.OnThread(func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("unshare: %v", err)
			return
		}
		var clients, other *os.File
		setUp := func() (err error) {
			if err = setUpLink("lo", netip.MustParsePrefix("127.0.0.1/8")); err == nil {
				clients, err = openTap("tap0", netip.MustParsePrefix("169.254.7.1/16"))
			}
			if err == nil {
				other, err = openTap("tap1", netip.MustParsePrefix("10.77.0.1/16"))
			}
			if err == nil {
				err = os.WriteFile("/proc/sys/net/ipv4/conf/tap1/route_localnet", []byte("1"), 0)
			}
			return err
		}
		if err := setUp(); err != nil {
			t.Errorf("links: %v", err)
			return
		}
		r = attackHere(t, c, p, func(w *world) {
			for name, link := range map[string]string{"link": "tap0", "other link": "tap1"} {
				w.witness[name] = strconv.Itoa(linkIndex(t, link))
			}
			w.serveUntilEnd(other, func() { w.noteFrames(other) })
			w.serveUntilEnd(clients, func() { w.noteFrames(nil) })
			port, _ := strconv.Atoi(w.port6)
			for _, frame := range [][]byte{frame6(uint16(port)), frame4(uint16(port))} {
				if _, err := clients.Write(frame); err != nil {
					t.Errorf("a client on the link: %v", err)
				}
			}
		})
	})
	return r
}

// canMakeLinks reports whether links can be made, of which a test is the other end: by root, where the kernel has them.
func canMakeLinks() bool {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == nil {
		_ = unix.Close(fd)
	}
	return err == nil && os.Geteuid() == 0
}

// noteFrames hears what leaves by a link.
func (w *world) noteFrames(link *os.File) {
	for frame := make([]byte, 1<<16); link != nil; {
		n, err := link.Read(frame)
		if err != nil {
			return
		}
		if bytes.Contains(frame[:n], []byte(w.nonce)) {
			w.hear(w.nonce, "other link")
		}
	}
}

func linkIndex(t *testing.T, name string) int {
	r, err := requestOf(name, unix.SIOCGIFINDEX, nil)
	if err != nil {
		t.Error(err)
		return 0
	}
	return int(r.Uint32())
}

// requestOf is an ioctl of netdevice(7); set fills it in.
func requestOf(name string, call uint, set func(*unix.Ifreq) error) (*unix.Ifreq, error) {
	r, err := unix.NewIfreq(name)
	if err == nil && set != nil {
		err = set(r)
	}
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return r, unix.IoctlIfreq(fd, call, r)
}

// setUpLink brings a link up, without neighbours to ask for, and gives it its address.
func setUpLink(name string, address netip.Prefix) error {
	flags := uint16(unix.IFF_UP | unix.IFF_NOARP | unix.IFF_BROADCAST | unix.IFF_MULTICAST)
	if name == "lo" {
		flags = unix.IFF_UP
	}
	mask := make([]byte, 4)
	binary.BigEndian.PutUint32(mask, ^uint32(0)<<(32-address.Bits()))
	_, err1 := requestOf(name, unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(flags); return nil })
	_, err2 := requestOf(name, unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(address.Addr().AsSlice()) })
	_, err3 := requestOf(name, unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr(mask) })
	return errors.Join(err1, err2, err3)
}

// openTap makes a link whose other end is the file, with an address of IPv6 too. The caller closes it.
func openTap(name string, address netip.Prefix) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	r, err := unix.NewIfreq(name)
	if err == nil {
		r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, r)
	}
	tap := os.NewFile(uintptr(fd), name)
	if err == nil {
		err = setUpLink(name, address)
	}
	if err == nil {
		err = addAddress6(name, netip.MustParseAddr("fe80::1"))
	}
	if err != nil {
		tap.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return tap, nil
}
