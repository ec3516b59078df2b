package listen

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
	"activator/internal/spec"
)

// hidden is what a service can leave that no option reads.
type hidden struct {
	name    string
	applies func(a spec.Address) bool
	do      func(fd int, a spec.Address) error
}

// rawOption sets an option to bytes.
func rawOption(fd, level, name int, value []byte) error {
	return unix.SetsockoptString(fd, level, name, string(value))
}

var hiddens = []hidden{
	{"TCP_MD5SIG", func(a spec.Address) bool { return a.IsTCP() && a.IP.Is4() }, func(fd int, _ spec.Address) error {
		var sig [216]byte // struct tcp_md5sig, linux/tcp.h
		binary.NativeEndian.PutUint16(sig[0:], unix.AF_INET)
		copy(sig[4:], []byte{192, 0, 2, 1})
		binary.NativeEndian.PutUint16(sig[130:], 3)
		copy(sig[136:], "key")
		return rawOption(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG, sig[:])
	}},
	{"TCP_AO_ADD_KEY", func(a spec.Address) bool { return a.IsTCP() && a.IP.Is4() }, func(fd int, _ spec.Address) error {
		var key [288]byte // struct tcp_ao_add, linux/tcp.h
		binary.NativeEndian.PutUint16(key[0:], unix.AF_INET)
		copy(key[4:], []byte{192, 0, 2, 1})
		copy(key[128:], "hmac(sha1)")
		key[202], key[207] = 32, 3
		copy(key[208:], "key")
		return rawOption(fd, unix.IPPROTO_TCP, 38, key[:])
	}},
	{"TCP_AO_INFO", func(a spec.Address) bool { return a.IsTCP() && a.IP.Is4() }, func(fd int, _ spec.Address) error {
		var info [48]byte // struct tcp_ao_info_opt, linux/tcp.h: nobody without a key
		binary.NativeEndian.PutUint32(info[0:], 1<<2)
		return rawOption(fd, unix.IPPROTO_TCP, 40, info[:])
	}},
	{"IP_ADD_MEMBERSHIP", func(a spec.Address) bool { return a.IsUDP() && !a.IP.Is6() }, func(fd int, _ spec.Address) error {
		return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: [4]byte{224, 0, 0, 251}, Ifindex: 1})
	}},
	{"IPV6_ADDRFORM", func(a spec.Address) bool { return a.Network == spec.UDP && !a.IP.IsValid() }, func(fd int, a spec.Address) error {
		mapped := netip.MustParseAddr("::ffff:127.0.0.1").As16()
		if err := unix.Connect(fd, &unix.SockaddrInet6{Addr: mapped, Port: int(a.Port)}); err != nil {
			return err
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_ADDRFORM, unix.AF_INET)
	}},
	{"IPV6_ADD_MEMBERSHIP", func(a spec.Address) bool { return a.IsUDP() && a.IP.Is6() }, func(fd int, _ spec.Address) error {
		return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_ADD_MEMBERSHIP, &unix.IPv6Mreq{Multiaddr: [16]byte{0xff, 2, 15: 0xfb}, Interface: 1})
	}},
}

// TestHidden leaves what only the memory it takes shows, or the family.
func TestHidden(t *testing.T) {
	for _, h := range hiddens {
		t.Run(h.name, func(t *testing.T) {
			for _, address := range addresses(t) {
				s := open(t, address)
				if !h.applies(s.Spec().Address) {
					continue
				}
				var err error
				asService(t, s, func(fd int) { err = h.do(fd, s.Spec().Address) })
				if err == unix.ENOPROTOOPT {
					t.Logf("%s: not in this kernel", s)
					continue
				}
				if err != nil {
					t.Fatalf("%s: %v", s, err)
				}
				if what, err := s.Mend(); !strings.Contains(what, "bound anew") || err != nil {
					t.Errorf("%s: Mend: %q, %v", s, what, err)
				}
				answer := client(t, s)
				serveOne(t, s)
				answer()
			}
		})
	}
}

// TestBlind leaves what cannot be read and shows by what is sent.
func TestBlind(t *testing.T) {
	if !hasIPv6() {
		t.Skip("no IPv6")
	}
	s := open(t, fmt.Sprint("udp6://:", ktest.Port(t)))
	self := &unix.SockaddrInet6{Addr: [16]byte{15: 1}, Port: int(s.Spec().Address.Port)}
	send := func(fd int) error { return unix.Sendto(fd, make([]byte, 1400), 0, self) }
	asService(t, s, func(fd int) {
		for _, name := range []int{unix.IPV6_MTU, unix.IPV6_DONTFRAG} {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, name, 1280); err != nil && name == unix.IPV6_MTU {
				t.Fatal(err)
			}
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1); err != nil {
			t.Fatal(err)
		}
		if err := send(fd); err != unix.EMSGSIZE {
			t.Errorf("with IPV6_MTU of 1280: %v", err)
		}
	})
	if what, err := s.Mend(); err != nil {
		t.Errorf("Mend: %q, %v", what, err)
	}
	asService(t, s, func(fd int) {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1); err != nil {
			t.Fatal(err)
		}
		if err := send(fd); err != nil {
			t.Errorf("after Mend: %v", err)
		}
	})
}

// TestHeldBack leaves half a datagram, which would take the next answer along.
func TestHeldBack(t *testing.T) {
	for _, address := range addresses(t) {
		s := open(t, address)
		if !s.Spec().Address.IsUDP() {
			continue
		}
		other := open(t, fmt.Sprint("udp://127.0.0.1:", ktest.Port(t)))
		to := unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: int(other.Spec().Address.Port)})
		if kindOf(&spec.Socket{Address: s.Spec().Address}, haveIPv6).Family == unix.AF_INET6 {
			other = open(t, fmt.Sprint("udp6://:", ktest.Port(t)))
			to = &unix.SockaddrInet6{Addr: [16]byte{15: 1}, Port: int(other.Spec().Address.Port)}
		}
		asService(t, s, func(fd int) {
			if err := unix.Sendto(fd, []byte("half"), unix.MSG_MORE, to); err != nil {
				t.Fatal(err)
			}
		})
		if what, err := s.Mend(); err != nil || s.Generation() != 0 {
			t.Errorf("%s: Mend: %q, %v", s, what, err)
		}
		answer := client(t, s)
		serveOne(t, s)
		answer()
	}
}

// TestDisown asks for signals, which would go to whoever has the pid later.
func TestDisown(t *testing.T) {
	for _, address := range addresses(t) {
		s := open(t, address)
		for _, how := range []struct{ command, value int }{{unix.F_SETOWN, os.Getpid()}, {unix.F_SETOWN, -unix.Getpgrp()}, {unix.F_SETSIG, int(unix.SIGURG)}, {unix.F_SETFL, unix.O_ASYNC}} {
			asService(t, s, func(fd int) {
				if _, err := unix.FcntlInt(uintptr(fd), how.command, how.value); err != nil {
					t.Fatal(err)
				}
			})
			if how.command == unix.F_SETFL { // Lend clears it too
				_ = control(s.frontFile(), func(fd int) error { _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, how.value); return err })
			}
			if what, err := s.Mend(); !strings.Contains(what, "signals about it; ended") || err != nil {
				t.Errorf("%s: fcntl %d: Mend: %q, %v", s, how.command, what, err)
			}
			if what, err := s.Mend(); what != "" || err != nil {
				t.Errorf("%s: fcntl %d: second Mend: %q, %v", s, how.command, what, err)
			}
		}
	}
}

// A program that chooses among the sockets of a reuse_port group goes.
func TestReusePortProgram(t *testing.T) {
	ktest.Filters(t)
	s := open(t, fmt.Sprint("udp://127.0.0.1:", ktest.Port(t)), func(o *spec.Options) { o.ReusePort = true })
	asService(t, s, func(fd int) {
		program := []unix.SockFilter{{Code: 0x06, K: 99}} // BPF_RET | BPF_K: no such socket
		err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &unix.SockFprog{Len: 1, Filter: (*unix.SockFilter)(unsafe.Pointer(&program[0]))})
		if err != nil {
			t.Fatal(err)
		}
	})
	if what, err := s.Mend(); !strings.Contains(what, "a program that chooses") || err != nil {
		t.Errorf("Mend: %q, %v", what, err)
	}
	if what, err := s.Mend(); what != "" || err != nil {
		t.Errorf("second Mend: %q, %v", what, err)
	}
}

// A pipe that was made larger or smaller gets its size back.
func TestMendPipeSize(t *testing.T) {
	s := open(t, "fifo://"+t.TempDir()+"/f")
	before := s.state.pipe
	for _, size := range []int{4096, 2 * before} {
		asService(t, s, func(fd int) {
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, size); err != nil {
				t.Fatal(err)
			}
		})
		if _, err := s.Mend(); err != nil {
			t.Error(err)
		}
		asService(t, s, func(fd int) {
			if now, err := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0); now != before || err != nil {
				t.Errorf("%d bytes, %v, want %d", now, err, before)
			}
		})
	}
}
