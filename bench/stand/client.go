package stand

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// clientTimeout bounds every wait of a client.
const clientTimeout = 20 * time.Second

// FirstByte connects to a TCP port of 127.0.0.1, sends a byte, and returns how
// long it took from before connect(2) until the byte was back. It makes plain
// blocking calls on a thread of its own: the scheduler of this program takes no
// part.
func FirstByte(port int) (time.Duration, error) {
	c, took, err := Ask(port)
	if err != nil {
		return 0, err
	}
	return took, c.Close()
}

// Conn is a connection that stays open.
type Conn int

// Close closes the connection.
func (c Conn) Close() error { return unix.Close(int(c)) }

// Ask is FirstByte, but leaves the connection open.
func Ask(port int) (Conn, time.Duration, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, 0, err
	}
	took, err := ask(fd, port)
	if err != nil {
		_ = unix.Close(fd)
		return -1, 0, fmt.Errorf("client of port %d: %w", port, err)
	}
	return Conn(fd), took, nil
}

func ask(fd, port int) (time.Duration, error) {
	limit := unix.NsecToTimeval(clientTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return 0, err
	}
	at := &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
	sent, back := []byte{'x'}, []byte{0}
	begin := time.Now()
	if err := retry(func() error { return unix.Connect(fd, at) }); err != nil {
		return 0, fmt.Errorf("connect: %w", err)
	}
	if _, err := unix.Write(fd, sent); err != nil {
		return 0, fmt.Errorf("write: %w", err)
	}
	var n int
	err := retry(func() (err error) {
		n, err = unix.Read(fd, back)
		return err
	})
	took := time.Since(begin)
	switch {
	case err != nil:
		return 0, fmt.Errorf("read: %w", err)
	case n == 0:
		return 0, fmt.Errorf("read: %w", io.ErrUnexpectedEOF)
	case back[0] != sent[0]:
		return 0, fmt.Errorf("read %q, want %q", back, sent)
	}
	return took, nil
}

func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Echoes sends n datagrams to a UDP port of 127.0.0.1, each after the answer to
// the one before, and returns how long each took from before send(2) until the
// answer had been received. A datagram that is lost is an error.
func Echoes(port, n int) ([]time.Duration, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	limit := unix.NsecToTimeval(clientTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return nil, err
	}
	took := make([]time.Duration, n)
	sent, back := make([]byte, 64), make([]byte, 128)
	for i := range took {
		begin := time.Now()
		if _, err := unix.Write(fd, sent); err != nil {
			return nil, fmt.Errorf("datagram %d: %w", i, err)
		}
		var got int
		err := retry(func() (err error) {
			got, err = unix.Read(fd, back)
			return err
		})
		took[i] = time.Since(begin)
		if err != nil || got != len(sent) {
			return nil, fmt.Errorf("datagram %d: %d bytes, %v", i, got, err)
		}
	}
	return took, nil
}

// Listening waits until a program accepts connections at a TCP port of 127.0.0.1.
func Listening(port int) error {
	return await(func() error {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// await tries until it works.
func await(try func() error) error {
	deadline := time.Now().Add(waitTimeout)
	for {
		err := try()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Thread gives the calling goroutine a thread of its own, and returns its number.
func Thread() (tid int, unlock func()) {
	runtime.LockOSThread()
	return unix.Gettid(), runtime.UnlockOSThread
}

// Answers waits until a web server at a TCP port of 127.0.0.1 answers, and so
// until a service that a client starts is running.
func Answers(port int) error {
	client := http.Client{Timeout: clientTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("port %d answers %s", port, answer.Status)
	}
	return nil
}

// Quiet opens n connections to a TCP port of 127.0.0.1, says nothing, and returns
// by how much look's value has grown by them.
func Quiet(port, n int, look func() (float64, error)) (float64, error) {
	before, err := look()
	if err != nil {
		return 0, err
	}
	for range n {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return 0, err
		}
		defer c.Close()
	}
	after, err := look()
	return after - before, err
}
