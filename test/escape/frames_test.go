package escape

import (
	"encoding/binary"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// addAddress6 gives a link an address: struct in6_ifreq of linux/ipv6.h.
func addAddress6(name string, address netip.Addr) error {
	link, err := requestOf(name, unix.SIOCGIFINDEX, nil)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	request := struct {
		address [16]byte
		prefix  uint32
		index   int32
	}{address.As16(), 64, int32(link.Uint32())}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFADDR, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return os.NewSyscallError("ioctl SIOCSIFADDR", errno)
	}
	return awaitAddress6(&unix.SockaddrInet6{Addr: request.address, ZoneId: uint32(request.index)})
}

// awaitAddress6 waits until a new address answers: the kernel takes it into use later, in one of its
// workers, and what comes before is not for it.
func awaitAddress6(address *unix.SockaddrInet6) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	for range waitTimeout / time.Millisecond {
		if err = unix.Bind(fd, address); err != unix.EADDRNOTAVAIL { //nolint:errorlint // an errno
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err != nil {
		return os.NewSyscallError("bind", err)
	}
	own, err := unix.Getsockname(fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for range waitTimeout / (10 * time.Millisecond) {
		if err := unix.Sendto(fd, []byte("?"), 0, own); err != nil {
			return os.NewSyscallError("sendto", err)
		}
		if n, _ := unix.Poll(ready, 10); n > 0 {
			return nil
		}
	}
	return os.NewSyscallError("poll", unix.ETIMEDOUT)
}

// frame6 is a client's datagram on a link, to everybody's MAC address: from fe80::77, port 5077, to fe80::1.
func frame6(port uint16) []byte {
	from, to := netip.MustParseAddr("fe80::77").As16(), netip.MustParseAddr("fe80::1").As16()
	udp := datagram(port)
	p := append(append([]byte{0x60, 0, 0, 0, 0, byte(len(udp)), unix.IPPROTO_UDP, 64}, from[:]...), to[:]...)
	pseudo := append(append([]byte{}, p[8:40]...), 0, 0, 0, byte(len(udp)), 0, 0, 0, unix.IPPROTO_UDP)
	binary.BigEndian.PutUint16(udp[6:], checksum(append(pseudo, udp...)))
	return append(ethernet(unix.ETH_P_IPV6), append(p, udp...)...)
}

// frame4 is one from 169.254.7.7 to 169.254.7.1; UDP's checksum may be left out.
func frame4(port uint16) []byte {
	udp := datagram(port)
	p := []byte{0x45, 0, 0, byte(20 + len(udp)), 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0, 169, 254, 7, 7, 169, 254, 7, 1}
	binary.BigEndian.PutUint16(p[10:], checksum(p))
	return append(ethernet(unix.ETH_P_IP), append(p, udp...)...)
}

func datagram(port uint16) []byte {
	udp := binary.BigEndian.AppendUint16(nil, 5077)
	udp = binary.BigEndian.AppendUint16(udp, port)
	return append(udp, 0, 8+6, 0, 0, 'h', 'e', 'l', 'l', 'o', '\n')
}

func ethernet(protocol uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 7}, protocol)
}

// checksum is that of IP; b has an even length.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
