package sockdiag

import (
	"encoding/binary"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// longestPart is the most that the kernel sends at once: NLMSG_GOODSIZE and more, for a dump.
const longestPart = 32 << 10

var buffers = sync.Pool{New: func() any { return new([longestPart]byte) }}

// Exchange sends a message over a netlink socket, lent, and calls each with the body of
// every answer, valid during the call only, until the kernel has said that this was all: after a
// dump (NLM_F_DUMP), or with an acknowledgement (NLM_F_ACK), one of which flags have. It returns
// the errno that the kernel answers. It has answered before sendto and recvfrom return.
func Exchange(socket int, kind, flags uint16, body []byte, each func(body []byte)) error {
	if err := sendMessage(socket, kind, flags, body); err != nil {
		return err
	}
	buf := buffers.Get().(*[longestPart]byte)
	defer buffers.Put(buf)
	for {
		part, err := receivePart(socket, buf)
		if err != nil {
			return err
		}
		if done, err := splitPart(part, each); done || err != nil {
			return err
		}
	}
}

// exchangeOne is Exchange of a question that has one answer and no end.
func exchangeOne(socket int, kind uint16, body []byte, each func(body []byte)) error {
	if err := sendMessage(socket, kind, 0, body); err != nil {
		return err
	}
	buf := buffers.Get().(*[longestPart]byte)
	defer buffers.Put(buf)
	part, err := receivePart(socket, buf)
	if err != nil {
		return err
	}
	_, err = splitPart(part, each)
	return err
}

// sendMessage sends struct nlmsghdr and what follows it. Sequence number and port are 0: the
// kernel fills the port in.
func sendMessage(socket int, kind, flags uint16, body []byte) error {
	b := make([]byte, unix.NLMSG_HDRLEN, 128)
	binary.NativeEndian.PutUint32(b, uint32(unix.NLMSG_HDRLEN+len(body)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	binary.NativeEndian.PutUint16(b[6:], flags|unix.NLM_F_REQUEST)
	return os.NewSyscallError("sendto", unix.Sendto(socket, append(b, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
}

func receivePart(socket int, buf *[longestPart]byte) (part []byte, err error) {
	var n int
	err = fd.RetryEINTR(func() (err error) {
		n, _, err = unix.Recvfrom(socket, buf[:], 0)
		return err
	})
	if err != nil {
		return nil, os.NewSyscallError("recvfrom", err)
	}
	return buf[:n], nil
}

// splitPart takes one datagram apart; done tells that it was the last.
func splitPart(b []byte, each func(body []byte)) (done bool, err error) {
	for len(b) >= unix.NLMSG_HDRLEN {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return true, unix.EBADMSG
		}
		body := b[unix.NLMSG_HDRLEN:size]
		switch binary.NativeEndian.Uint16(b[4:]) {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR: // also the acknowledgement, with 0
			if len(body) < 4 {
				return true, unix.EBADMSG
			}
			if errno := -int32(binary.NativeEndian.Uint32(body)); errno != 0 {
				return true, unix.Errno(errno)
			}
			return true, nil
		default:
			each(body)
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return false, nil
}

// eachAttribute calls each with every struct nlattr of b.
func eachAttribute(b []byte, each func(kind uint16, value []byte)) {
	for len(b) >= unix.SizeofNlAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofNlAttr || size > len(b) {
			return
		}
		each(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofNlAttr:size])
		b = b[min(len(b), (size+3)&^3):]
	}
}

// WithSocket lends f a socket that tells of our own network namespace.
func WithSocket(f func(socket int) error) error {
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return os.NewSyscallError("socket(NETLINK_SOCK_DIAG)", err)
	}
	defer func() { _ = unix.Close(socket) }()
	return f(socket)
}
