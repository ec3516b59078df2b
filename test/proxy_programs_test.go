package test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"activator/internal/ktest"
)

// lookUp asks a name server at addr for www.example.test, from 20 clients at once.
func lookUp(t *testing.T, network, addr string) {
	t.Helper()
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}
	var clients sync.WaitGroup
	for range 20 {
		clients.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
			defer cancel()
			got, err := resolver.LookupHost(ctx, "www.example.test.")
			slices.Sort(got)
			if fmt.Sprint(got) != "[192.0.2.7 2001:db8::7]" || err != nil {
				t.Errorf("%s %s: %v: %v", network, addr, got, err)
			}
		})
	}
	clients.Wait()
}

// dnsmasq answers over UDP and TCP, IPv4 and IPv6, and logs its clients.
func TestProxyDnsmasq(t *testing.T) {
	installed(t, "dnsmasq")
	n := ktest.Port(t)
	conf, err := filepath.Abs("../configs/files/dnsmasq.conf")
	if err != nil {
		t.Fatal(err)
	}
	a := activate(t, "--config", example(t, "dnsmasq", "127.0.0.1:5300", fmt.Sprint("127.0.0.1:", n), "[::1]:5300", fmt.Sprint("[::1]:", n),
		`"files/dnsmasq.conf:`, `"`+conf+":", `"--pid-file="`, `"--pid-file=", "--log-queries"`))
	for _, network := range []string{"udp", "tcp"} {
		for _, host := range []string{"127.0.0.1", "[::1]"} {
			lookUp(t, network, fmt.Sprintf("%s:%d", host, n))
		}
	}
	d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 77)}}
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.DialContext(ctx, "udp", fmt.Sprint("127.0.0.1:", n))
	}}
	if _, err := resolver.LookupHost(context.Background(), "www.example.test."); err != nil {
		t.Error(err)
	}
	a.wait("query[A] www.example.test from 127.0.0.77")
	a.wait("query[A] www.example.test from ::1")
	if a.log.count("state=running") != 1 || a.log.count("level=WARN")+a.log.count("level=ERROR") > 0 {
		t.Error("there are complaints in the log")
	}
}

// unbound answers from four threads that have each bound the same address.
func TestProxyUnbound(t *testing.T) {
	installed(t, "unbound")
	conf, err := filepath.Abs("../configs/unbound.conf")
	if err != nil {
		t.Fatal(err)
	}
	n := ktest.Port(t)
	a := activate(t, "--config", example(t, "unbound", "127.0.0.1:5300", fmt.Sprint("127.0.0.1:", n), `"unbound.conf:`, `"`+conf+":", `"bind"`, `"proxy"`))
	for _, network := range []string{"udp", "tcp", "udp"} {
		lookUp(t, network, fmt.Sprint("127.0.0.1:", n))
	}
	if a.log.count("state=running") != 1 {
		t.Error("it was started more than once")
	}
}

// memcached stores over TCP and answers over UDP, one program on one port.
func TestProxyMemcached(t *testing.T) {
	installed(t, "memcached")
	n := ktest.Port(t)
	a := activate(t, "--config", example(t, "memcached", `listen = ["tcp://127.0.0.1:11211", "udp://127.0.0.1:11211"]`,
		fmt.Sprintf("listen = [\"tcp://127.0.0.1:%[1]d\"]\ntarget = \"tcp://127.0.0.1:11211\"\n[[socket]]\nlisten = [\"udp://127.0.0.1:%[1]d\"]\ntarget = \"udp://127.0.0.1:11211\"\n", n),
		`"bind"`, "\"proxy\"\nidle_timeout = \"400ms\""))
	store := func() {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", n), waitTimeout)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(waitTimeout))
		r := bufio.NewReader(c)
		for i := range 100 {
			fmt.Fprintf(c, "set key%d 0 0 5\r\nvalue\r\n", i)
			if line, err := r.ReadString('\n'); strings.TrimSpace(line) != "STORED" {
				t.Fatalf("memcached says %q: %v", line, err)
			}
		}
	}
	store()
	u := dialUDP(t, "", fmt.Sprintf("127.0.0.1:%d", n))
	pause, last := time.Duration(0), time.Now()
	for begin := last; time.Since(begin) < time.Second; time.Sleep(20 * time.Millisecond) { // no client is connected
		if err := askMemcached(u, 7); err != nil {
			t.Fatal(err)
		}
		pause, last = max(pause, time.Since(last)), time.Now()
	}
	if a.log.count("idle=") != 0 && pause < 400*time.Millisecond {
		t.Error("it was stopped while it was asked over UDP")
	}
	a.wait("state=stopping", "idle=")
}
