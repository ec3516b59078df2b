package main

import (
	"encoding/binary"
	"io"
	"log"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// answerDatagrams answers one at a time: what is taken off the queue is answered
// before the next is taken.
func (s *server) answerDatagrams(name string, socket *os.File, udp bool) error {
	buffer := make([]byte, maxDatagram)
	// On a unix socket no room for descriptors: the kernel drops them. And no
	// wait for a client that does not read, for ever if it waits for us: the
	// answer is lost, as UDP's would be.
	oob, send := []byte(nil), fd.Control
	if udp {
		oob, send = make([]byte, 512), fd.Write    // timestamps and the like may come too
		_ = fd.Control(socket, func(n int) error { // one of them is not of its family
			_ = unix.SetsockoptInt(n, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
			return unix.SetsockoptInt(n, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		})
	}
	for s.ctx.Err() == nil {
		var n, oobn, flags int
		var from unix.Sockaddr
		err := fd.Read(socket, func(fd int) (err error) {
			n, oobn, flags, from, err = unix.Recvmsg(fd, buffer, oob, unix.MSG_CMSG_CLOEXEC)
			return err
		})
		switch {
		case isOneOf(err, passing) || isOneOf(err, exhausted):
			s.debugf("%s: recvmsg: %v", name, err)
		case err != nil:
			return os.NewSyscallError("recvmsg", err)
		case describeSocket(from) == "(unnamed)":
			s.debugf("%s: %d bytes from a sender without an address: dropped", name, n)
		case flags&unix.MSG_TRUNC != 0:
			log.Printf("%s: more than %d bytes from %s: dropped", name, maxDatagram, describeSocket(from))
		default:
			err = send(socket, func(fd int) error {
				return unix.Sendmsg(fd, buffer[:n], replyFrom(oob[:oobn]), from, unix.MSG_NOSIGNAL)
			})
			s.debugf("%s: %d bytes to %s, error %v", name, n, describeSocket(from), err)
			s.noteAnswered()
		}
	}
	return nil
}

// replyFrom turns the control messages that came with a datagram into those
// that make its answer leave from the address it came to, or a client behind a
// connected socket or a firewall does not take it; nil: let the kernel choose.
// See ip(7), ipv6(7).
func replyFrom(oob []byte) []byte {
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
			to := unix.Inet6Pktinfo{Addr: [16]byte(m.Data[:16])}
			if ip := net.IP(to.Addr[:]); ip.IsMulticast() {
				return nil
			} else if ip.IsLinkLocalUnicast() { // means nothing without its interface
				to.Ifindex = binary.NativeEndian.Uint32(m.Data[16:20])
			}
			return unix.PktInfo6(&to)
		}
	}
	return nil
}

// printFIFO writes to standard output what arrives: a FIFO has no way back. It
// counts no answers: bytes in a pipe have no bounds.
func (s *server) printFIFO(name string, fifo *os.File) error {
	if _, err := io.Copy(os.Stdout, fifo); err != nil {
		return err
	}
	// It ends only where it was passed open for reading alone. Its next writer
	// has us started again.
	s.debugf("%s: the last writer is gone: draining", name)
	s.stop(nil)
	return nil
}
