package escape

import (
	"bufio"
	"errors"
	"io"
	"net"
	"strings"
	"time"
)

// client is a client of a well-behaved instance.
type client struct {
	w      *world
	way    string   // "tcp4", "tcp4 bulk", "tcp4 cut", "tcp4 queued late", "udp4 burst"
	queued net.Conn // waits already; nil: it has to connect
	conn   net.Conn
	result chan error
	over   chan struct{} // closed when the instance is gone
}

// count is how many datagrams it sends.
func (c *client) count() int {
	if strings.HasSuffix(c.way, "burst") {
		return 20
	}
	return 1
}

func (c *client) address() (network, address string) {
	name, _, _ := strings.Cut(c.way, " ")
	return name, map[string]string{"tcp4": c.w.tcp4, "tcp6": c.w.tcp6, "udp4": c.w.udp4, "udp6": c.w.udp6, "unixgram": c.w.unixgram}[name]
}

// start connects, and on a stream goes on in the background.
func (c *client) start() error {
	network, address := c.address()
	conn, err := c.queued, error(nil)
	if conn == nil {
		if conn, err = net.DialTimeout(network, address, 15*time.Second); err != nil {
			return err
		}
	}
	c.w.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(15 * time.Second))
	c.conn = conn
	if strings.HasPrefix(network, "tcp") {
		c.w.serveUntilEnd(conn, func() { c.result <- c.talk() })
	}
	return nil
}

// talk sends a line and wants it back, and a megabyte besides.
func (c *client) talk() error {
	if _, err := c.conn.Write([]byte(c.w.nonce + "\n")); err != nil {
		return err
	}
	r := bufio.NewReader(c.conn)
	line, err := r.ReadString('\n')
	if err != nil {
		return err
	}
	if strings.TrimSpace(line) != c.w.nonce {
		return errors.New("another line comes back")
	}
	switch {
	case strings.HasSuffix(c.way, "bulk"):
		_, err = io.CopyN(io.Discard, r, 1<<20)
	case strings.HasSuffix(c.way, "cut"):
		<-c.over
		_, err = io.CopyN(io.Discard, r, 1<<18)
	case strings.HasSuffix(c.way, "late"):
		time.Sleep(2 * time.Second) // the kernel's timers end it meanwhile, or never
		_, err = io.CopyN(io.Discard, r, 1<<24)
	}
	return err
}

// sent sends all datagrams before the instance reads any.
func (c *client) sent() {
	if c.conn == nil {
		return
	}
	datagram := []byte(c.w.nonce + "\n")
	if c.count() > 1 {
		datagram = append(datagram, make([]byte, 1200)...)
	}
	for range c.count() {
		if _, err := c.conn.Write(datagram); err != nil {
			c.w.t.Logf("client: %v", err)
		}
	}
}
