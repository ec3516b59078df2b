package udprelay

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// undelivered are the kinds of sockets, and where their clients are.
var undelivered = map[string][3]string{
	"udp4":            {"udp4", "127.0.0.1:0", "127.0.0.1:0"},
	"udp4 wildcard":   {"udp4", "0.0.0.0:0", "127.0.0.1:0"},
	"udp6":            {"udp6", "[::1]:0", "[::1]:0"},
	"udp, both":       {"udp", "[::]:0", "127.0.0.1:0"},
	"unixgram":        {"unixgram", own + "undelivered", own + "client-%d"},
	"unixgram, nodes": {"unixgram", "DIR/host", "DIR/client-%d"},
}

// toAsk is where clients of a host's socket send to.
func toAsk(host net.PacketConn, from string) net.Addr {
	if at, is := host.LocalAddr().(*net.UDPAddr); is && at.IP.IsUnspecified() {
		to, _ := net.ResolveUDPAddr("udp", strings.TrimSuffix(from, ":0")+":"+fmt.Sprint(at.Port))
		return to
	}
	return host.LocalAddr()
}

// eachUndelivered runs a test for every kind; ask makes a client that asks text.
func eachUndelivered(t *testing.T, test func(t *testing.T, f *os.File, ask func(text string) net.PacketConn)) {
	for name, kind := range undelivered {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "relay")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			for i := range kind {
				kind[i] = strings.ReplaceAll(kind[i], "DIR", dir)
			}
			f, host := hostSocket(t, kind[0], kind[1])
			n := 0
			test(t, f, func(text string) net.PacketConn {
				from := kind[2]
				if n++; strings.Contains(from, "%d") {
					from = fmt.Sprintf(from, n)
				}
				network := kind[0]
				if network == "udp" {
					network = "udp4"
				}
				c := client(t, network, from)
				ask(t, c, toAsk(host, from), text)
				return c
			})
		})
	}
}

// answers has the next program read texts, in this order, and answer: each client is
// answered once.
func answers(t *testing.T, inner net.PacketConn, clients []net.PacketConn) {
	t.Helper()
	for i := range clients {
		text, from := receive(t, inner)
		if want := fmt.Sprint("question ", i); text != want {
			t.Fatalf("the program reads %q, want %q", text, want)
		}
		ask(t, inner, from, "answer to "+text)
	}
	silent(t, inner, "the program")
	for i, c := range clients {
		if text, _ := receive(t, c); text != fmt.Sprint("answer to question ", i) {
			t.Errorf("client %d receives %q", i, text)
		}
	}
}

// A client that needs a new flow socket gets one when the owner is closed, and so do those right
// behind it; and what they sent is the next relay's when this one ends before.
func TestOwnerClosesNobodyIsLost(t *testing.T) {
	eachUndelivered(t, func(t *testing.T, f *os.File, asks func(string) net.PacketConn) {
		var kept Undelivered
		m := newOwner(t)
		d := openRelay(t, m, f, Options{Undelivered: &kept})
		for domain, fds := range d.flows.unbound { // as if so many had come
			closeAll(fds)
			d.flows.share.Give(len(fds))
			delete(d.flows.unbound, domain)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		var clients []net.PacketConn
		for i := range 3 {
			clients = append(clients, asks(fmt.Sprint("question ", i)))
		}
		carried := d.Carried()
		stop := run(t, d)
		eventually(t, "all are carried", func() bool { return d.Carried() >= carried+3 })
		stop()
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if !kept.Any() {
			t.Error("nothing is undelivered")
		}
		next := openRelay(t, newOwner(t), f, Options{Undelivered: &kept})
		run(t, next)
		answers(t, service(t, next), clients)
	})
}

// What lies in the inner socket's queue when it goes is the next relay's, before what the
// relay had not sent yet, and what lies in the host's: more than two batches of it.
func TestInnerQueueIsKept(t *testing.T) {
	eachUndelivered(t, func(t *testing.T, f *os.File, asks func(string) net.PacketConn) {
		var kept Undelivered
		m := newOwner(t)
		d := openRelay(t, m, f, Options{Undelivered: &kept})
		inner := service(t, d)
		stop := run(t, d)
		many := 2*batchSize + 3
		if d.family == unix.AF_UNIX {
			many = 5 // the queue of a unix socket is short
		}
		var clients []net.PacketConn
		for i := range many {
			carried := d.Carried()
			clients = append(clients, asks(fmt.Sprint("question ", i)))
			eventually(t, "it is carried", func() bool { return d.Carried() != carried })
		}
		stop()
		// As a service leaves it that cannot be mended.
		_ = unix.Shutdown(descriptor(t, inner), unix.SHUT_RDWR)
		clients = append(clients, asks(fmt.Sprint("question ", many)))
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		next := openRelay(t, m, f, Options{Undelivered: &kept})
		run(t, next)
		answers(t, service(t, next), clients)
	})
}

// A service that takes several datagrams as one leaves several.
func TestInnerQueueInOne(t *testing.T) {
	var kept Undelivered
	m := newOwner(t)
	f, host := hostSocket(t, "udp4", "127.0.0.1:0")
	d := openRelay(t, m, f, Options{Undelivered: &kept})
	inner := service(t, d)
	if err := unix.SetsockoptInt(descriptor(t, inner), unix.SOL_UDP, unix.UDP_GRO, 1); err != nil {
		t.Fatal(err)
	}
	c := client(t, "udp4", "127.0.0.1:0")
	for i := range 10 {
		ask(t, c, host.LocalAddr(), fmt.Sprint(i))
	}
	ask(t, c, host.LocalAddr(), "")
	carried := d.Carried()
	stop := run(t, d)
	eventually(t, "they are carried", func() bool { return d.Carried() != carried })
	stop()
	_ = d.Close()
	next := openRelay(t, m, f, Options{Undelivered: &kept})
	run(t, next)
	again := service(t, next)
	for i := range 11 {
		want := fmt.Sprint(i)
		if i == 10 {
			want = ""
		}
		if text, _ := receive(t, again); text != want {
			t.Fatalf("it reads %q, want %q", text, want)
		}
	}
}

// What no program has read waits for the next one only for as long as a client may.
func TestUndeliveredExpires(t *testing.T) {
	var u Undelivered
	for _, tt := range []struct {
		hold time.Duration
		gone int
	}{{time.Minute, 0}, {0, 0}, {time.Nanosecond, 2}} {
		u.putAll(make([]datagram, 2))
		time.Sleep(time.Microsecond)
		if gone := u.Expire(tt.hold); gone != tt.gone {
			t.Errorf("hold %v: %d are forgotten, want %d", tt.hold, gone, tt.gone)
		}
		if n := len(u.takeAll()); n != 2-tt.gone || u.Any() {
			t.Errorf("hold %v: %d are there", tt.hold, n)
		}
	}
}

// logged is a relay's log.
func logged() (*lines, *slog.Logger) {
	l := &lines{}
	return l, slog.New(slog.NewTextHandler(l, nil))
}

// Every datagram that is dropped on the way is counted, and said with the errno.
func TestLostIsSaid(t *testing.T) {
	for name, lose := range map[string]func(t *testing.T, d *SocketRelay, host net.PacketConn) (says []string){
		"the service is connected to another client": func(t *testing.T, d *SocketRelay, host net.PacketConn) []string {
			if err := unix.Connect(d.socket.fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 9}, Port: 9}); err != nil {
				t.Fatal(err)
			}
			ask(t, client(t, "udp4", "127.0.0.1:0"), host.LocalAddr(), "lost")
			return []string{lostRefused, "connection refused"}
		},
		"sent by the service to itself": func(t *testing.T, d *SocketRelay, host net.PacketConn) []string {
			ask(t, service(t, d), host.LocalAddr(), "poison")
			ask(t, client(t, "udp4", "127.0.0.1:0"), host.LocalAddr(), "not lost")
			return []string{lostQueue}
		},
		"longer than lo carries": func(t *testing.T, d *SocketRelay, host net.PacketConn) []string {
			d.self.SetPort(9) // it is not looked for
			f := &flow{}
			b := newBatch()
			b.n, b.in[0].n = 1, 1<<16-1 // longer than a datagram can be
			var err error
			if f.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
				t.Fatal(err)
			}
			defer unix.Close(f.fd)
			b.packMessages(0, 1, d.self.Bytes(), nil, 0)
			udpOf(d).sendInside(b, f)
			return []string{lostInside, "message too long"}
		},
		"a client at our own address": func(t *testing.T, d *SocketRelay, host net.PacketConn) []string {
			ask(t, host, host.LocalAddr(), "to ourselves")
			return []string{lostNowhere}
		},
		"an answer that cannot be sent": func(t *testing.T, d *SocketRelay, host net.PacketConn) []string {
			b := newBatch()
			b.n, b.in[0].n, b.flows[0] = 1, 1<<16-1, &flow{client: d.self}
			udpOf(d).sendAnswers(b)
			return []string{lostOutside, "message too long"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			text, log := logged()
			f, host := hostSocket(t, "udp4", "127.0.0.1:0")
			d := openRelay(t, newOwner(t), f, Options{Log: log})
			says := lose(t, d, host)
			run(t, d)
			for _, want := range append(says, "dropped=1") {
				eventually(t, "it says "+want, func() bool { return strings.Contains(text.String(), want) })
			}
		})
	}
}

// Of what is dropped in between the log says how much it was, also if nothing follows.
func TestLostIsSaidLater(t *testing.T) {
	text, log := logged()
	f, _ := hostSocket(t, "udp4", "127.0.0.1:0")
	d := openRelay(t, newOwner(t), f, Options{Log: log})
	d.noteLost(1, lostInside, unix.EPERM)
	d.noteLost(2, lostInside, unix.EPERM)
	d.noteLost(4, lostInside, unix.EACCES)
	if lines := strings.Count(text.String(), "\n"); lines != 2 || !strings.Contains(text.String(), "dropped=4") {
		t.Errorf("it says %q", text)
	}
	if due := d.nextAlarm(); !due.Equal(d.start.Add(lostEvery)) {
		t.Errorf("it will wake up at %v, and has begun at %v", due, d.start)
	}
	d.now = lostEvery
	if d.tellLost(false); !strings.Contains(text.String(), "dropped=2") || !d.nextAlarm().IsZero() {
		t.Errorf("it says %q", text)
	}
	d.noteLost(7, lostInside, unix.EPERM)
	if _ = d.Close(); !strings.Contains(text.String(), "dropped=7") {
		t.Errorf("in the end it says %q", text)
	}
}
