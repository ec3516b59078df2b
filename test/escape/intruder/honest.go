package main

import (
	"errors"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

// honest is a server that sends back what it gets, on sockets that it inherited, that it binds itself
// ("bind"), or on the connection that is its stdin ("stdio"). It serves until it is ended, and whom it has taken then
// it still serves: Go's own handler of SIGTERM runs beside the threads that accept.
func honest(args []string) {
	sockets := inherited()
	switch {
	case len(args) > 0 && args[0] == "bind":
		sockets = bindAll()
	case len(args) > 0 && args[0] == "stdio":
		sendBack(0)
		return
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGTERM)
	var listeners []net.Listener
	var serving sync.WaitGroup
	for name, fd := range sockets {
		if name == "unixgram" || name == "udp4" || name == "udp6" {
			go answerDatagrams(fd)
			continue
		}
		l, err := net.FileListener(os.NewFile(uintptr(fd), name))
		if err != nil {
			fatal(err)
		}
		listeners = append(listeners, l)
		serving.Go(func() { serveListener(l, &serving) })
	}
	<-ended
	for _, l := range listeners {
		l.Close()
	}
	serving.Wait()
	answering.Lock() // until the exit
	os.Exit(0)
}

// serveListener serves clients until the listener is closed.
func serveListener(l net.Listener, serving *sync.WaitGroup) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			fatal(err)
		}
		serving.Go(func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		})
	}
}

// answering is held between a datagram and its answer.
var answering sync.Mutex

func fatal(err error) {
	_, _ = os.Stderr.WriteString("intruder: " + err.Error() + "\n")
	os.Exit(1)
}

func answerDatagrams(fd int) {
	b := make([]byte, 4096)
	for {
		_ = readable(fd, lifetime)
		answering.Lock()
		n, from, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
		switch {
		case err == unix.EINTR || err == unix.EAGAIN:
		case err != nil:
			fatal(err)
		case from != nil:
			_ = unix.Sendto(fd, b[:n], 0, from) // the client may be gone
		}
		answering.Unlock()
	}
}

func sendBack(fd int) {
	b := make([]byte, 4096)
	for {
		n, err := unix.Read(fd, b)
		if err == unix.EINTR {
			continue
		}
		if n <= 0 || err != nil {
			return
		}
		if _, err := unix.Write(fd, b[:n]); err != nil {
			return
		}
	}
}
