package main

import (
	"errors"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// swapTime bounds each half of the race.
const swapTime = 2 * time.Second

// listenerSwap swaps the listener.
func listenerSwap(m *mission) (string, error) {
	listener, err := m.socket("tcp4")
	if err != nil {
		return "", err
	}
	return m.swapIn(listener, func() bool {
		listening, err := unix.GetsockoptInt(listener, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		return err == nil && listening == 0
	})
}

// acceptedSwap swaps a connection that it has accepted.
func acceptedSwap(m *mission) (string, error) {
	connection, err := m.accepted("tcp4")
	if err != nil {
		return "", err
	}
	return m.swapIn(connection, func() bool { return !isConnected(connection) })
}

func isConnected(fd int) bool {
	_, err := unix.Getpeername(fd)
	return err == nil
}

// swapIn makes the judge of a connect(2) see a unix socket and a path, and the kernel, which reads
// once more, fd and another address: none, until it is dissolved, then the witness's.
func (m *mission) swapIn(fd int, dissolved func() bool) (string, error) {
	to, err := m.raw("tcp4")
	if err != nil {
		return "", err
	}
	own, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		return "", at("socket", err)
	}
	if err := swapped(own, fd, unspecified[:], dissolved); err != nil {
		return "", at("connect AF_UNSPEC", err)
	}
	if err := swapped(own, fd, to, func() bool { return isConnected(fd) }); err != nil {
		return "", at("connect", err)
	}
	return m.exchange(fd)
}

// swapped calls connect(2) again and again while another thread puts harmless or wanted, and
// the address that fits, in the place that it is called with, until done.
func swapped(harmless, wanted int, address []byte, done func() bool) error {
	const place = 200
	var shown [16]byte
	path := [16]byte{unix.AF_UNIX, 0, '/', 'n', 'o', 'n', 'e'}
	words := func(b []byte) *[2]uint64 { return (*[2]uint64)(unsafe.Pointer(&b[0])) }
	write := func(from []byte) {
		to, w := words(shown[:]), words(from)
		atomic.StoreUint64(&to[1], w[1])
		atomic.StoreUint64(&to[0], w[0])
	}
	address = append(append([]byte{}, address...), make([]byte, 16)...)[:16]
	if err := unix.Dup3(harmless, place, 0); err != nil {
		return err
	}
	defer unix.Close(place)
	var over atomic.Bool
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for !over.Load() {
			_ = unix.Dup3(harmless, place, 0)
			write(path[:])
			spin()
			_ = unix.Dup3(wanted, place, 0)
			write(address)
			spin()
		}
	}()
	defer func() {
		over.Store(true)
		<-gone
	}()
	last := error(nil)
	for end := time.Now().Add(swapTime); time.Now().Before(end); {
		if err := call(unix.SYS_CONNECT, place, uintptr(unsafe.Pointer(&shown)), 16); err != nil {
			last = err
		}
		if done() {
			return nil
		}
	}
	return errors.Join(last, errors.New("the race is not won"))
}

// spin gives a judge on another processor some microseconds.
func spin() {
	for end := time.Now().Add(20 * time.Microsecond); time.Now().Before(end); {
	}
}
