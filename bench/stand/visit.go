package stand

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Visitors ask a service that echoes, at one address, each something else.
type Visitors struct {
	network, addr string
	idle          chan net.Conn // sockets of datagrams, asked from again and again
	all           []net.Conn
}

// NewVisitors are those of an address: tcp, unix, udp or unixgram. Of datagrams at
// most n ask at a time, each from a socket of its own.
func NewVisitors(network, addr string, n int) (*Visitors, error) {
	v := &Visitors{network: network, addr: addr}
	if network == "tcp" || network == "unix" {
		return v, nil
	}
	v.idle = make(chan net.Conn, n)
	for i := range n {
		c, err := v.dial(i)
		if err != nil {
			v.Close()
			return nil, err
		}
		v.all = append(v.all, c)
		v.idle <- c
	}
	return v, nil
}

var visitors struct {
	sync.Mutex
	sets int
}

func (v *Visitors) dial(i int) (net.Conn, error) {
	if v.network != "unixgram" {
		return net.Dial(v.network, v.addr)
	}
	visitors.Lock()
	defer visitors.Unlock()
	visitors.sets++
	name := fmt.Sprintf("@bench-%d-%d-%d", os.Getpid(), visitors.sets, i) // a client that is answered has a name
	return net.DialUnix(v.network, &net.UnixAddr{Name: name, Net: v.network}, &net.UnixAddr{Name: v.addr, Net: v.network})
}

// Close closes what is kept.
func (v *Visitors) Close() {
	for _, c := range v.all {
		_ = c.Close()
	}
}

// Ask is one visit. It begins before connect(2), or before send(2) of a datagram, and
// is over when the whole answer is there.
func (v *Visitors) Ask(i int) (begin time.Time, err error) {
	text := fmt.Sprintf("visitor %d", i)
	if v.idle != nil {
		c := <-v.idle
		defer func() { v.idle <- c }()
		return time.Now(), exchange(c, text, func(c net.Conn, got []byte) (int, error) { return c.Read(got) })
	}
	begin = time.Now()
	c, err := net.Dial(v.network, v.addr)
	if err != nil {
		return begin, err
	}
	defer c.Close()
	return begin, exchange(c, text, func(c net.Conn, got []byte) (int, error) { return io.ReadFull(c, got[:len(text)]) })
}

func exchange(c net.Conn, text string, read func(net.Conn, []byte) (int, error)) error {
	if err := c.SetDeadline(time.Now().Add(clientTimeout)); err != nil {
		return err
	}
	if _, err := c.Write([]byte(text)); err != nil {
		return err
	}
	got := make([]byte, 64)
	n, err := read(c, got)
	if err == nil && string(got[:n]) != text {
		err = fmt.Errorf("the answer is %q, want %q", got[:n], text)
	}
	return err
}
