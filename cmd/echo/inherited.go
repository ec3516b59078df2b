package main

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// kind is what the kernel says a descriptor is.
type kind struct {
	mode      uint32 // S_IFMT of stat(2)
	domain    int
	socktype  int
	protocol  int
	listening bool
	connected bool
	local     unix.Sockaddr
}

// open takes f and returns the endpoint that serves it.
func open(s *server, f *os.File) (endpoint, error) {
	defer func() { _ = f.Close() }()
	k, err := inspect(f)
	if err != nil {
		return nil, err
	}
	switch {
	case k.mode == unix.S_IFIFO:
		return openFIFO(s, f)
	case k.mode != unix.S_IFSOCK:
		return nil, fmt.Errorf("neither a socket nor a FIFO (file type %#o): cannot be echoed on", k.mode)
	case !k.supported():
		return nil, fmt.Errorf("socket of domain %d, type %d, protocol %d: not supported", k.domain, k.socktype, k.protocol)
	case k.socktype == unix.SOCK_DGRAM:
		return openDatagram(s, f, k)
	case k.listening:
		return openListener(s, f, k)
	case k.connected:
		return openConnection(s, f, k)
	}
	return nil, fmt.Errorf("socket %s neither listens nor is connected", describe(k.local))
}

func (k kind) supported() bool {
	internet := k.domain == unix.AF_INET || k.domain == unix.AF_INET6
	switch k.socktype {
	case unix.SOCK_STREAM:
		return k.domain == unix.AF_UNIX || k.domain == unix.AF_VSOCK ||
			internet && (k.protocol == unix.IPPROTO_TCP || k.protocol == unix.IPPROTO_MPTCP)
	case unix.SOCK_DGRAM:
		return k.domain == unix.AF_UNIX || internet && k.protocol == unix.IPPROTO_UDP
	case unix.SOCK_SEQPACKET:
		return k.domain == unix.AF_UNIX
	}
	return false
}

func inspect(f *os.File) (k kind, err error) {
	err = fd.Control(f, func(fd int) (err error) {
		k, err = inspectFD(fd)
		return err
	})
	return k, err
}

func inspectFD(fd int) (k kind, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return k, os.NewSyscallError("fstat", err)
	}
	if k.mode = st.Mode & unix.S_IFMT; k.mode != unix.S_IFSOCK {
		return k, nil
	}
	var listening int
	for _, o := range []struct {
		name   string
		option int
		to     *int
	}{
		{"SO_DOMAIN", unix.SO_DOMAIN, &k.domain},
		{"SO_TYPE", unix.SO_TYPE, &k.socktype},
		{"SO_PROTOCOL", unix.SO_PROTOCOL, &k.protocol},
		{"SO_ACCEPTCONN", unix.SO_ACCEPTCONN, &listening},
	} {
		if *o.to, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, o.option); err != nil {
			return k, os.NewSyscallError("getsockopt "+o.name, err)
		}
	}
	k.listening = listening != 0
	if !k.listening {
		_, err := unix.Getpeername(fd)
		k.connected = err == nil
	}
	// A family that x/sys cannot name is one we do not serve.
	k.local, _ = unix.Getsockname(fd)
	return k, nil
}

// pollable returns a copy of f that the runtime polls, closed by the caller.
// Os.NewFile decides that when it is called, and f was passed in blocking. It
// sets O_NONBLOCK of the open file description it shares with the activator,
// which sets it as configured for the next instance.
func pollable(f *os.File) (*os.File, error) {
	err := fd.Control(f, func(fd int) error { return os.NewSyscallError("fcntl F_SETFL", unix.SetNonblock(fd, true)) })
	if err != nil {
		return nil, err
	}
	own, err := fd.Dup(f)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(own), f.Name()), nil
}

// describe prints an address in the configuration's words.
func describe(address unix.Sockaddr) string {
	switch a := address.(type) {
	case *unix.SockaddrInet4:
		return (&net.UDPAddr{IP: a.Addr[:], Port: a.Port}).String()
	case *unix.SockaddrInet6:
		udp := net.UDPAddr{IP: a.Addr[:], Port: a.Port}
		if a.ZoneId != 0 {
			udp.Zone = fmt.Sprint(a.ZoneId)
		}
		return udp.String()
	case *unix.SockaddrUnix:
		if a.Name == "" {
			return "(unnamed)"
		}
		return a.Name
	case *unix.SockaddrVM:
		return fmt.Sprintf("%d:%d", a.CID, a.Port)
	}
	return "(unknown)"
}
