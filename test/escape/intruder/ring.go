package main

import (
	"errors"
	"sync/atomic"
	"unsafe"

	"activator/test/escape/wire"

	"golang.org/x/sys/unix"
)

// io_uring does by itself what no system call filter sees.
func ringProbes() []probe {
	var all []probe
	add := func(name, tries, means string, run func(*mission) (string, error)) {
		all = append(all, probe{wire.Probe{Name: name, Group: "io_uring", Tries: tries, Means: means, Witness: wire.WitnessNonce}, run})
	}
	add("io-uring-connect", "the dissolved connection of tcp-accepted-dissolve, by IORING_OP_CONNECT", "bytes exchanged with a server in the host's network", ringConnect)
	add("io-uring-fastopen", "the listener of tcp-fastopen-sendmsg, by IORING_OP_SENDMSG", "bytes exchanged with a server in the host's network", ringFastOpen)
	add("io-uring-sendmsg", "the datagram of udp-sendmsg, by IORING_OP_SENDMSG", "a datagram reaches a server in the host's network that never sent one", ringSendmsg)
	return all
}

// Of linux/io_uring.h.
const (
	opSendmsg = 9
	opConnect = 16

	offSubmissions = 0
	offEntries     = 0x10000000
	getEvents      = 1
)

// ring is an io_uring of one entry, io_uring_setup(2).
type ring struct {
	fd                int
	rings, entries    []byte
	tail, array, cqes uint32 // offsets in rings
}

type ringParams struct {
	entries, cqEntries, flags, cpu, idle, features, wq uint32
	_                                                  [3]uint32
	sq                                                 struct{ head, tail, mask, entries, flags, dropped, array, _, _, _ uint32 }
	cq                                                 struct{ head, tail, mask, entries, overflow, cqes, flags, _, _, _ uint32 }
}

func newRing() (*ring, error) {
	var p ringParams
	fd, err := valueOf(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&p)))
	if err != nil {
		return nil, at("io_uring_setup", err)
	}
	r := &ring{fd: fd, tail: p.sq.tail, array: p.sq.array, cqes: p.cq.cqes}
	// Both rings are in one mapping since Linux 5.4.
	if r.rings, err = unix.Mmap(fd, offSubmissions, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, at("mmap", err)
	}
	r.entries, err = unix.Mmap(fd, offEntries, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return r, at("mmap", err)
}

func (r *ring) word(offset uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.rings[offset])) }

// first does one operation as the first of the ring, and waits for its result.
//
//go:uintptrescapes
func (r *ring) first(step string, op byte, fd int, address uintptr, offset uint64, length, flags uint32) error {
	*(*struct {
		op, flags     byte
		prio          uint16
		fd            int32
		offset        uint64
		address       uint64
		length, extra uint32
	})(unsafe.Pointer(&r.entries[0])) = struct {
		op, flags     byte
		prio          uint16
		fd            int32
		offset        uint64
		address       uint64
		length, extra uint32
	}{op: op, fd: int32(fd), offset: offset, address: uint64(address), length: length, extra: flags}
	*r.word(r.array) = 0
	atomic.StoreUint32(r.word(r.tail), 1)
	if err := call(unix.SYS_IO_URING_ENTER, uintptr(r.fd), 1, 1, getEvents, 0, 0); err != nil {
		return at("io_uring_enter", err)
	}
	// struct io_uring_cqe: user data in 8 bytes, then the result.
	if result := int32(*r.word(r.cqes + 8)); result < 0 {
		return at("io_uring "+step, unix.Errno(-result))
	}
	return nil
}

func ringConnect(m *mission) (string, error) {
	fd, err := m.accepted("tcp4")
	if err != nil {
		return "", err
	}
	to, err := m.raw("tcp4")
	if err != nil {
		return "", err
	}
	bounded(fd)
	for _, step := range []struct {
		name    string
		address []byte
	}{{"connect AF_UNSPEC", unspecified[:]}, {"connect", to}} {
		r, err := newRing()
		if err != nil {
			return "", err
		}
		if err := r.first(step.name, opConnect, fd, uintptr(unsafe.Pointer(&step.address[0])), 16, 0, 0); err != nil {
			return "", err
		}
	}
	return m.exchange(fd)
}

// ringSend sends the nonce to a witness through a ring.
func (m *mission) ringSend(fd int, witness string, flags uint32) error {
	to, err := m.raw(witness)
	if err != nil {
		return err
	}
	r, err := newRing()
	if err != nil {
		return err
	}
	data := []byte(m.Nonce + "\n")
	vector := unix.Iovec{Base: &data[0]}
	vector.SetLen(len(data))
	message := unix.Msghdr{Name: &to[0], Namelen: uint32(len(to)), Iov: &vector, Iovlen: 1}
	return r.first("sendmsg", opSendmsg, fd, uintptr(unsafe.Pointer(&message)), 0, 1, flags)
}

func ringSendmsg(m *mission) (string, error) {
	fd, err := m.socket("udp4")
	if err != nil {
		return "", err
	}
	return "the kernel took the datagram", m.ringSend(fd, "udp4", 0)
}

func ringFastOpen(m *mission) (string, error) {
	fd, err := m.socket("tcp4")
	if err != nil {
		return "", err
	}
	if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil {
		return "", at("shutdown", err)
	}
	err = m.ringSend(fd, "tcp4", unix.MSG_FASTOPEN)
	if errors.Is(err, unix.EINPROGRESS) { // a first time: without a cookie no data goes with the SYN
		bounded(fd)
		return m.exchange(fd)
	}
	if err != nil {
		return "", err
	}
	return m.hear(fd)
}
