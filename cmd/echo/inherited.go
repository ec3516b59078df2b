package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"activator/internal/fdpass"
	"activator/internal/kernel/fd"
)

// networks are the sockets that are served, by domain, type and protocol.
var networks = map[[3]int]string{
	{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP}:    "tcp",
	{unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP}:   "tcp",
	{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP}:  "tcp",
	{unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_MPTCP}: "tcp",
	{unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP}:     "udp",
	{unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP}:    "udp",
	{unix.AF_UNIX, unix.SOCK_STREAM, 0}:                   "unix",
	{unix.AF_UNIX, unix.SOCK_DGRAM, 0}:                    "unixgram",
	{unix.AF_UNIX, unix.SOCK_SEQPACKET, 0}:                "unixpacket",
	{unix.AF_VSOCK, unix.SOCK_STREAM, 0}:                  "vsock",
}

// inheritSockets makes an endpoint of every passed descriptor, or of none.
func inheritSockets(s *server) (endpoints []endpoint, err error) {
	inherited, err := fdpass.ReceiveInherited()
	if errors.Is(err, fdpass.ErrNotActivated) {
		return nil, fmt.Errorf("%w; start it by: activator --config configs/echo.toml", err)
	}
	for _, in := range inherited {
		e, err := openInherited(s, in.File)
		if err != nil {
			return nil, fmt.Errorf("LISTEN_FDS=%d: %s: %w", len(inherited), in.File.Name(), err)
		}
		s.debugf("%s is %s", in.File.Name(), e.name)
		endpoints = append(endpoints, e)
	}
	return endpoints, err
}

// openInherited takes f and returns the endpoint that serves a copy of it.
func openInherited(s *server, f *os.File) (e endpoint, err error) {
	defer func() { _ = f.Close() }()
	own, err := makePollable(f)
	if err != nil {
		return e, err
	}
	var st unix.Stat_t
	var is [4]int
	var local, peer unix.Sockaddr
	err = fd.Control(own, func(n int) error {
		for i, option := range []int{unix.SO_DOMAIN, unix.SO_TYPE, unix.SO_PROTOCOL, unix.SO_ACCEPTCONN} {
			is[i], _ = unix.GetsockoptInt(n, unix.SOL_SOCKET, option) // every socket has them
		}
		local, _ = unix.Getsockname(n)
		peer, _ = unix.Getpeername(n)
		return os.NewSyscallError("fstat", unix.Fstat(n, &st))
	})
	network, echo := networks[[3]int(is[:3])], echoStream
	if network == "unixpacket" {
		echo = echoRecords
	}
	e = endpoint{name: network + "://" + describeSocket(local), setDeadline: own.SetReadDeadline}
	switch mode := st.Mode & unix.S_IFMT; {
	case err != nil:
	case mode == unix.S_IFIFO:
		e.name = "fifo (" + f.Name() + ")"
		e.serve = func() error { return s.printFIFO(e.name, own) }
	case mode != unix.S_IFSOCK:
		err = fmt.Errorf("neither a socket nor a FIFO (file type %#o): cannot be echoed on", mode)
	case network == "":
		err = fmt.Errorf("socket of domain %d, type %d, protocol %d: not supported", is[0], is[1], is[2])
	case network == "udp" || network == "unixgram":
		e.serve = func() error { return s.answerDatagrams(e.name, own, network == "udp") }
	case is[3] != 0:
		e.serve = func() error { return s.acceptClients(e.name, own, echo) }
	case peer != nil: // accept = true: it is drained like any other
		e.setDeadline = nil
		e.serve = func() error { s.answerClient(own, echo); return nil }
	default:
		err = fmt.Errorf("socket %s neither listens nor is connected", describeSocket(local))
	}
	return e, err
}

// makePollable returns a copy of f that the runtime polls. Os.NewFile decides that
// when it is called, and f was passed in blocking. O_NONBLOCK is of the open
// file description, shared with the activator, which sets it as configured for
// the next instance.
func makePollable(f *os.File) (*os.File, error) {
	err := fd.Control(f, func(n int) error { return os.NewSyscallError("fcntl F_SETFL", unix.SetNonblock(n, true)) })
	if err != nil {
		return nil, err
	}
	n, err := fd.DupFile(f)
	return os.NewFile(uintptr(n), f.Name()), err
}
