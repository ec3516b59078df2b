package udprelay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/budget"
	"activator/internal/ktest"
	"activator/internal/netns"
)

// TestExpire changes the time while there is no relay, so that no flow expires before
// its answer has come, however slow the machine is.
func TestExpire(t *testing.T) {
	m := newOwner(t)
	f, host := hostSocket(t, "udp4", "127.0.0.1:0")
	d := openRelay(t, m, f, Options{Expire: time.Hour})
	inner := service(t, d)
	c := client(t, "udp4", "127.0.0.1:0")
	for range 3 {
		stop := run(t, d)
		exchange(t, c, host.LocalAddr(), inner)
		stop()
		n := budget.Taken()
		d.flows.expire = 20 * time.Millisecond
		stop = run(t, d)
		eventually(t, "the flow has expired", func() bool { return budget.Taken() < n })
		stop()
		d.flows.expire = time.Hour
	}
	if d.flows.oldestFlow() != nil || !d.nextAlarm().IsZero() || d.poll.armed.After(time.Now()) {
		t.Errorf("without clients it wakes up at %v, armed for %v", d.nextAlarm(), d.poll.armed)
	}
}

// TestAnswerBeforeExpiry: an answer that came in time is carried also when we look
// only after the flow's time: the processors may have been busy.
func TestAnswerBeforeExpiry(t *testing.T) {
	for name, at := range map[string][2]string{
		"udp4":     {"127.0.0.1:0", "127.0.0.1:0"},
		"unixgram": {own + "expiry-host", own + "expiry-client"},
	} {
		t.Run(name, func(t *testing.T) {
			f, host := hostSocket(t, name, at[0])
			d := openRelay(t, newOwner(t), f, Options{Expire: time.Hour})
			inner := service(t, d)
			c := client(t, name, at[1])
			stop := run(t, d)
			ask(t, c, host.LocalAddr(), "question")
			_, from := receive(t, inner)
			stop()
			ask(t, inner, from, "answer")
			d.flows.expire = time.Nanosecond
			n := budget.Taken()
			run(t, d)
			if text, _ := receive(t, c); text != "answer" {
				t.Errorf("the client received %q", text)
			}
			eventually(t, "the flow has expired", func() bool { return budget.Taken() < n })
		})
	}
}

// lines is a log that several goroutines write.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestFlood: ever new clients, which the service does not answer, keep out neither a new one nor those that it
// talks to: these can still be sent something.
func TestFlood(t *testing.T) {
	for name, at := range map[string]string{"udp4": "127.0.0.1:0", "unixgram": own + "flood"} {
		t.Run(name, func(t *testing.T) {
			var log lines
			f, host := hostSocket(t, name, at)
			d := openRelay(t, newOwner(t), f, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
			d.flows.most = 16
			run(t, d)
			inner := service(t, d)
			var next int
			another := func() net.PacketConn {
				from := "127.0.0.1:0"
				if name == "unixgram" {
					from = fmt.Sprint(own+"flood-", next)
				}
				next++
				return client(t, name, from)
			}
			friends := []net.PacketConn{another(), another(), another()}
			for range 2 {
				for _, c := range friends {
					exchange(t, c, host.LocalAddr(), inner)
				}
			}
			for range 10 {
				for range 20 {
					ask(t, another(), host.LocalAddr(), "flood")
					receive(t, inner)
				}
				exchange(t, another(), host.LocalAddr(), inner)
				for _, c := range friends {
					ask(t, inner, c.LocalAddr(), "unasked")
					if text, _ := receive(t, c); text != "unasked" {
						t.Fatalf("it receives %q", text)
					}
				}
			}
			eventually(t, "it says so", func() bool { return strings.Contains(log.String(), "make room") })
			if strings.Contains(log.String(), "dropped") {
				t.Errorf("the log says %q", log.String())
			}
		})
	}
}

// TestDescriptorsFull: relay sockets share the limit of descriptors.
func TestDescriptorsFull(t *testing.T) {
	var log lines
	m := newOwner(t)
	f, host := hostSocket(t, "udp4", "127.0.0.1:0")
	d := openRelay(t, m, f, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	var others budget.Share
	defer others.Close()
	for d.flows.share.Room() > 0 {
		others.Take(d.flows.share.Room())
	}
	run(t, d)
	inner := service(t, d)
	for range firstFlows {
		exchange(t, client(t, "udp4", "127.0.0.1:0"), host.LocalAddr(), inner)
	}
	for range 3 * firstFlows { // in the place of others
		exchange(t, client(t, "udp4", "127.0.0.1:0"), host.LocalAddr(), inner)
	}
	eventually(t, "it says so", func() bool {
		return strings.Contains(log.String(), "make room") && strings.Contains(log.String(), fmt.Sprint("flows=", firstFlows))
	})
	others.Give(20)
	exchange(t, client(t, "udp4", "127.0.0.1:0"), host.LocalAddr(), inner)
}

// TestTableMakesRoom: clients that ask once do not keep others out.
func TestTableMakesRoom(t *testing.T) {
	var log lines
	f, host := hostSocket(t, "udp4", "127.0.0.1:0")
	d := openRelay(t, newOwner(t), f, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	d.flows.most = 3
	stop := run(t, d)
	defer stop()
	inner := service(t, d)
	first := client(t, "udp4", "127.0.0.1:0")
	exchange(t, first, host.LocalAddr(), inner)
	for range 20 {
		exchange(t, client(t, "udp4", "127.0.0.1:0"), host.LocalAddr(), inner)
	}
	exchange(t, first, host.LocalAddr(), inner)
	stop()
	if n := len(d.flows.byClient); n != 3 {
		t.Errorf("%d flows", n)
	}
	if text := log.String(); !strings.Contains(text, "make room") {
		t.Errorf("the log says %q", text)
	}
}

func TestThousands(t *testing.T) {
	const many = 4000
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < 2*many+2000 {
		ktest.Skip(t, "RLIMIT_NOFILE is %d", limit.Cur)
	}
	f, host := hostSocket(t, "udp4", "127.0.0.1:0")
	d := openRelay(t, newOwner(t), f, Options{})
	run(t, d)
	inner := service(t, d)
	go func() { // ends when inner is closed
		b := make([]byte, 2048)
		for {
			n, from, err := inner.ReadFrom(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = inner.WriteTo(fmt.Appendf(nil, "%s for %v", b[:n], from), from)
			}
		}
	}()
	clients := make([]net.PacketConn, many)
	for i := range clients {
		clients[i] = client(t, "udp4", fmt.Sprintf("127.0.%d.%d:0", i%5, 1+i%7))
	}
	for round := range 3 {
		for at := 0; at < many; at += 50 { // as many as the queues have room for
			for i, c := range clients[at : at+50] {
				ask(t, c, host.LocalAddr(), fmt.Sprint(round, " ", at+i))
			}
			for i, c := range clients[at : at+50] {
				if text, _ := receive(t, c); text != fmt.Sprint(round, " ", at+i, " for ", c.LocalAddr()) {
					t.Fatalf("client %d received %q", at+i, text)
				}
			}
		}
	}
}

// TestOwnerCloses: a relay that there is serves the clients that it has, and all that come, when
// no other one can be made any more.
func TestOwnerCloses(t *testing.T) {
	m := newOwner(t)
	f, host := hostSocket(t, "udp4", "127.0.0.1:0")
	d := openRelay(t, m, f, Options{})
	run(t, d)
	inner := service(t, d)
	old := client(t, "udp4", "127.0.0.1:0")
	exchange(t, old, host.LocalAddr(), inner)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	f2, _ := hostSocket(t, "udp4", "127.0.0.1:0")
	if _, err := OpenSocketRelay(m, f2, Options{}); !errors.Is(err, netns.ErrClosed) {
		t.Errorf("another one: %v", err)
	}
	exchange(t, old, host.LocalAddr(), inner)
	for range 3 * firstFlows {
		exchange(t, client(t, "udp4", "127.0.0.1:0"), host.LocalAddr(), inner)
	}
}

func TestCloseWhileRunning(t *testing.T) {
	f, host := hostSocket(t, "udp4", "127.0.0.1:0")
	d := openRelay(t, newOwner(t), f, Options{})
	done := make(chan error, 1)
	go func() { done <- d.Run(context.Background()) }()
	exchange(t, client(t, "udp4", "127.0.0.1:0"), host.LocalAddr(), service(t, d))
	for range 2 {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := d.Run(context.Background()); !errors.Is(err, ErrClosed) {
		t.Errorf("run after close: %v", err)
	}
}

// TestNothingIsLeft counts descriptors: relay networks die with their sockets.
func TestNothingIsLeft(t *testing.T) {
	m := newOwner(t)
	f, _ := hostSocket(t, "udp", "[::]:0")
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	openRelay(t, m, f, Options{}).Close() // the owner stays
	before := count()
	for range 20 {
		d := openRelay(t, m, f, Options{})
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors, before %d", after, before)
	}
	if n := budget.Taken(); n != 0 {
		t.Errorf("%d flow sockets are counted", n)
	}
	if on, err := unix.GetsockoptInt(descriptor(t, f), unix.SOL_IPV6, unix.IPV6_RECVPKTINFO); err != nil || on != 0 {
		t.Errorf("IPV6_RECVPKTINFO of the host's socket is %d, %v", on, err)
	}
}

func TestRelaySocketRefuses(t *testing.T) {
	m := newOwner(t)
	for name, make := range map[string]func() (int, error){
		"a stream":        func() (int, error) { return unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0) },
		"not bound":       func() (int, error) { return unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) },
		"not bound, unix": func() (int, error) { return unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) },
		"multicast": func() (int, error) {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err == nil {
				err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{224, 0, 0, 99}, Port: 5999})
			}
			return fd, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			fd, err := make()
			if err != nil {
				t.Fatal(err)
			}
			f := os.NewFile(uintptr(fd), "host")
			defer f.Close()
			d, err := OpenSocketRelay(m, f, Options{})
			if err == nil {
				d.Close()
				t.Fatal("it is relayed")
			}
			t.Log(err)
		})
	}
}

// helperParent starts a process that relays, and returns it and the address.
func helperParent(t *testing.T) (c *exec.Cmd, host *net.UDPAddr) {
	t.Helper()
	c = exec.Command("/proc/self/exe", "helper", "parent")
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	host = &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}
	if _, err := fmt.Fscanln(out, &host.Port); err != nil {
		t.Fatal(err)
	}
	return c, host
}

// parent is the helper: it relays to an echo of its own.
func parent() {
	host, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err == nil {
		var f *os.File
		var d *SocketRelay
		m := new(netns.Owner)
		if f, err = host.(*net.UDPConn).File(); err == nil {
			d, err = OpenSocketRelay(m, f, Options{})
		}
		if err == nil {
			fmt.Println(host.LocalAddr().(*net.UDPAddr).Port)
			go echo(d.socket.fd)
			err = d.Run(context.Background())
		}
	}
	fmt.Println(err)
	os.Exit(1)
}

// TestNobodyElse: a relay has no process, and ends with ours.
func TestNobodyElse(t *testing.T) {
	c, host := helperParent(t)
	client := client(t, "udp4", "127.0.0.1:0")
	ask(t, client, host, "hello")
	receive(t, client)
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", c.Process.Pid))
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	for _, path := range paths {
		if text, err := os.ReadFile(path); err == nil && len(text) > 0 { // a thread may end
			t.Errorf("%s: %s", path, text)
		}
	}
	_ = c.Process.Kill()
	_ = c.Wait()
	eventually(t, "the host's address is free", func() bool {
		c, err := net.ListenUDP("udp4", host)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

// TestIdle: nothing wakes up while no client comes, also with a client in the table.
func TestIdle(t *testing.T) {
	c, host := helperParent(t)
	client := client(t, "udp4", "127.0.0.1:0")
	ask(t, client, host, "hello")
	receive(t, client)
	eventually(t, "half a second without a switch", func() bool {
		before := switches(t, c.Process.Pid)
		time.Sleep(500 * time.Millisecond)
		return switches(t, c.Process.Pid) == before
	})
}

// switches counts how often a thread of a process went to sleep.
func switches(t *testing.T, pid int) (sum int) {
	t.Helper()
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(paths) == 0 {
		t.Fatalf("process %d is gone: %v", pid, err)
	}
	for _, path := range paths {
		text, _ := os.ReadFile(path) // a thread may end
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
				n, _ := strconv.Atoi(strings.TrimSpace(value))
				sum += n
			}
		}
	}
	return sum
}
