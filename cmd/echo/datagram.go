package main

import (
	"encoding/binary"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// datagrams answers on one UDP or unix datagram socket, one datagram at a
// time: what is taken off the queue is answered before the next is taken.
type datagrams struct {
	server *server
	name   string
	domain int
	file   *os.File
}

func openDatagram(s *server, f *os.File, k kind) (endpoint, error) {
	own, err := pollable(f)
	if err != nil {
		return nil, err
	}
	scheme := "udp://"
	if k.domain == unix.AF_UNIX {
		scheme = "unixgram://"
	}
	d := &datagrams{s, scheme + describe(k.local), k.domain, own}
	if err := fd.Control(own, func(fd int) error { return wantDestination(fd, k.local) }); err != nil {
		_ = own.Close()
		return nil, err
	}
	return d, nil
}

func (d *datagrams) String() string { return d.name }

func (d *datagrams) stop() { _ = d.file.SetReadDeadline(past) }

func (d *datagrams) serve() error {
	buffer := make([]byte, maxDatagram)
	oob := d.controlBuffer()
	for !d.server.isStopping() {
		var n, oobn, flags int
		var from unix.Sockaddr
		err := fd.Read(d.file, func(fd int) (err error) {
			n, oobn, flags, from, err = unix.Recvmsg(fd, buffer, oob, unix.MSG_CMSG_CLOEXEC)
			return err
		})
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case isPending(err):
			d.server.log.debugf("%s: recvmsg: %v", d.name, err)
			continue
		case err != nil:
			return os.NewSyscallError("recvmsg", err)
		}
		if !d.answerable(n, flags, from) {
			continue
		}
		if err := d.answer(buffer[:n], replyFrom(oob[:oobn]), from); err != nil {
			d.server.log.debugf("%s: %d bytes to %s: sendmsg: %v", d.name, n, describe(from), err)
		} else {
			d.server.log.debugf("%s: %d bytes to %s", d.name, n, describe(from))
		}
		d.server.answered()
	}
	return nil
}

// controlBuffer has room for the destination and for timestamps and the like,
// which the configuration may have switched on. On a unix socket it has none:
// the kernel would fill it with descriptors that the senders pass.
func (d *datagrams) controlBuffer() []byte {
	if d.domain == unix.AF_UNIX {
		return nil
	}
	return make([]byte, 512)
}

// isPending: an error of an earlier answer that the kernel reports late, and
// forgets by that; the next call receives.
func isPending(errno error) bool {
	return isOneOf(errno, unix.EINTR, unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN,
		unix.EPROTO, unix.ENOPROTOOPT, unix.EMSGSIZE, unix.EACCES, unix.ENOMEM, unix.ENOBUFS)
}

// answer sends one. A full send buffer of UDP drains by itself. On a unix socket EAGAIN
// means clients that do not read: the queue of this one is full, or what waits
// in others' queues fills our send buffer (for clients that are connected
// net.unix.max_dgram_qlen does not count). Waiting for them would stop the
// service, for ever if they wait for us, so the answer is lost, as UDP's would
// be.
func (d *datagrams) answer(data, oob []byte, to unix.Sockaddr) error {
	send := func(socket int) error {
		return fd.Again(func() error { return unix.Sendmsg(socket, data, oob, to, unix.MSG_NOSIGNAL) })
	}
	if d.domain == unix.AF_UNIX {
		return fd.Control(d.file, send)
	}
	return fd.Write(d.file, send)
}

func (d *datagrams) answerable(n, flags int, from unix.Sockaddr) bool {
	if sender, ok := from.(*unix.SockaddrUnix); from == nil || ok && sender.Name == "" {
		d.server.log.debugf("%s: %d bytes from a sender without an address: dropped", d.name, n)
		return false
	}
	if flags&unix.MSG_TRUNC != 0 {
		d.server.log.warnf("%s: more than %d bytes from %s: dropped", d.name, maxDatagram, describe(from))
		return false
	}
	return true
}

// wantDestination has the kernel tell the address each datagram was sent to, on
// a socket bound to all of them: the answer must come from there, or a client
// behind a connected socket or a firewall does not take it.
func wantDestination(fd int, local unix.Sockaddr) error {
	switch a := local.(type) {
	case *unix.SockaddrInet4:
		if a.Addr == [4]byte{} {
			return os.NewSyscallError("setsockopt IP_PKTINFO", unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1))
		}
	case *unix.SockaddrInet6:
		if a.Addr == [16]byte{} {
			return os.NewSyscallError("setsockopt IPV6_RECVPKTINFO", unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1))
		}
	}
	return nil
}

// replyFrom turns the control messages that came with a datagram into those
// that make its answer leave from the address it came to; nil: let the kernel
// choose. See ip(7), ipv6(7).
func replyFrom(oob []byte) []byte {
	if len(oob) == 0 {
		return nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			// Of struct in_pktinfo only ipi_spec_dst: for a multicast or
			// broadcast datagram it is our own address, ipi_addr is not.
			return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: [4]byte(m.Data[4:8])})
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			return replyFrom6([16]byte(m.Data[:16]), m.Data[16:20])
		}
	}
	return nil
}

func replyFrom6(to [16]byte, ifindex []byte) []byte {
	info := unix.Inet6Pktinfo{Addr: to}
	switch {
	case to[0] == 0xff: // multicast
		return nil
	case to[0] == 0xfe && to[1]&0xc0 == 0x80: // link-local: means nothing without its interface
		info.Ifindex = binary.NativeEndian.Uint32(ifindex)
	}
	return unix.PktInfo6(&info)
}
