package main

import (
	"encoding/binary"
	"errors"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

func int80(number, a, b, c uintptr) (r int32)

func int81()

var errNoGate = errors.New("no 32-bit gate: the instruction faults on this machine")

// tryGate makes a call through a gate. Some virtual processors have no 32-bit one,
// whatever the kernel's configuration says: every program gets SIGSEGV.
func tryGate(call func()) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			err = errNoGate
		}
	}()
	call()
	return nil
}

// int80Connect makes the calls of tcp-listener-dissolve with the numbers of i386:
// a filter that compares amd64's numbers takes them for others. i386 has
// socketcall(102), whose arguments are three words in the first 4 GiB.
func int80Connect(m *mission) (string, error) {
	to, err := m.raw("tcp4")
	if err != nil {
		return "", err
	}
	fd, err := m.socket("tcp4")
	if err != nil {
		return "", err
	}
	low, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_32BIT)
	if err != nil {
		return "", at("mmap", err)
	}
	words, address := low[:12], low[16:32]
	connect := func(step string) error {
		binary.LittleEndian.PutUint32(words, uint32(fd))
		binary.LittleEndian.PutUint32(words[4:], uint32(addressOf(address)))
		binary.LittleEndian.PutUint32(words[8:], 16)
		const socketcall, sysConnect = 102, 3
		var r int32
		if err := tryGate(func() { r = int80(socketcall, sysConnect, addressOf(words), 0) }); err != nil {
			return err
		}
		if r < 0 {
			return at(step, unix.Errno(-r))
		}
		return nil
	}
	if err := connect("int80 connect AF_UNSPEC"); err != nil {
		return "", err
	}
	copy(address, to)
	if err := connect("int80 connect"); err != nil {
		return "", err
	}
	return m.exchange(fd)
}
