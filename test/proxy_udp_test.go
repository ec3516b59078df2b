package test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"activator/internal/ktest"
)

// carriedDatagrams is a program that has never heard of us: it binds an address of its
// own network and sends back what it gets, with the client that it sees before it; what is "slow"
// takes it a while. After some answers it ends, or with "away" closes its socket and lives on.
func carriedDatagrams(args []string) {
	if len(args) > 2 {
		late, _ := time.ParseDuration(args[2])
		time.Sleep(late)
	}
	c, err := net.ListenPacket(args[0], args[1])
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	most := -1
	if len(args) > 3 {
		most, _ = strconv.Atoi(args[3])
	}
	buf := make([]byte, 1<<16)
	for n := 0; n != most; n++ {
		size, from, err := c.ReadFrom(buf)
		if err != nil {
			os.Exit(1)
		}
		if bytes.HasPrefix(buf[:size], []byte("slow ")) {
			time.Sleep(8 * time.Millisecond)
		}
		_, _ = c.WriteTo(append([]byte(from.String()+" "), buf[:min(size, 60000)]...), from)
	}
	if len(args) > 4 {
		c.Close()
		for {
			time.Sleep(time.Hour)
		}
	}
	os.Exit(0)
}

// datagramsAt activates it: target is as net.ListenPacket wants it, "udp :8000".
func datagramsAt(t *testing.T, listen, target, more string, args ...string) *activator {
	t.Helper()
	network, addr, _ := strings.Cut(target, " ")
	exec := fmt.Sprintf("%q, %q", network, addr)
	for _, a := range args {
		exec += fmt.Sprintf(", %q", a)
	}
	return activate(t, "--config", configureIn(t, folder(t), "datagrams", fmt.Sprintf(
		"[[socket]]\nlisten = [%q]\ntarget = \"udp://%s\"\n[service]\nexec = [\"SELF\", %s]\nenvironment = [\"ACTIVATOR_TEST_SERVICE=carried datagrams\"]\nhandover = \"proxy\"\n%s",
		listen, addr, exec, quick+more)))
}

// inquire sends text and wants it back within d; it returns the client that the program saw.
func inquire(c net.Conn, text string, d time.Duration) (seen string, err error) {
	if _, err := c.Write([]byte(text)); err != nil {
		return "", err
	}
	return readAnswer(c, text, d)
}

// readAnswer is inquire, once text has been sent.
func readAnswer(c net.Conn, text string, d time.Duration) (seen string, err error) {
	buf := make([]byte, 1<<16)
	for _ = c.SetReadDeadline(time.Now().Add(d)); ; {
		n, err := c.Read(buf)
		if err != nil {
			return "", err
		}
		seen, back, _ := strings.Cut(string(buf[:n]), " ")
		if back == text {
			return seen, nil // else another answer to an earlier one
		}
	}
}

func dialUDP(t *testing.T, from, to string) net.Conn {
	t.Helper()
	d := net.Dialer{}
	if from != "" {
		local, err := net.ResolveUDPAddr("udp", from)
		if err != nil {
			t.Fatal(err)
		}
		d.LocalAddr = local
	}
	c, err := d.Dial("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// Both families in every combination. A connected client takes answers from the
// address that it asked only.
func TestProxyDatagrams(t *testing.T) {
	n := ktest.Port(t)
	four, six := fmt.Sprintf("127.0.0.1:%d", n), fmt.Sprintf("[::1]:%d", n)
	for _, tt := range []struct {
		listen, target string
		asks           []string
		own            bool
	}{
		{"udp://" + four, "udp :8000", []string{four}, true},
		{"udp://" + four, "udp4 127.0.0.1:8000", []string{four}, true},
		{"udp://" + four, "udp6 [::1]:8000", []string{four}, false},
		{"udp://" + six, "udp :8000", []string{six}, true},
		{"udp://" + six, "udp6 [::1]:8000", []string{six}, true},
		{"udp://" + six, "udp4 127.0.0.1:8000", []string{six}, false},
		{fmt.Sprintf("udp://:%d", n), "udp :8000", []string{four, six, fmt.Sprintf("127.0.0.3:%d", n)}, true},
		{fmt.Sprintf("udp4://:%d", n), "udp4 0.0.0.0:53", []string{four, fmt.Sprintf("127.9.9.9:%d", n)}, true},
		{fmt.Sprintf("udp6://:%d", n), "udp6 [::]:53", []string{six}, true},
	} {
		t.Run(tt.listen+" to "+tt.target, func(t *testing.T) {
			a := datagramsAt(t, tt.listen, tt.target, "")
			for _, to := range tt.asks {
				froms := []string{"[::1]:0"}
				if !strings.HasPrefix(to, "[") {
					froms = []string{"127.0.0.1:0", "127.0.0.2:0", "127.200.1.2:0"}
				}
				for _, from := range froms {
					c := dialUDP(t, from, to)
					for _, size := range []int{0, 1, 1472, 20000, 60000} {
						seen, err := inquire(c, strings.Repeat("x", size), waitTimeout)
						if err != nil || (strings.Replace(seen, "[::ffff:", "[", 1) == c.LocalAddr().String()) != tt.own {
							t.Fatalf("%s asks %s with %d bytes: it is seen as %q: %v", c.LocalAddr(), to, size, seen, err)
						}
					}
				}
			}
			if a.log.count("level=ERROR")+a.log.count("level=WARN") > 0 || a.log.count("state=running") != 1 {
				t.Errorf("there are complaints in the log")
			}
		})
	}
}

// A client with the port of the program itself is answered, and seen with another.
func TestProxyDatagramsPortOfTheProgram(t *testing.T) {
	n, inside := ktest.Port(t), ktest.Port(t)
	datagramsAt(t, fmt.Sprintf("udp://127.0.0.1:%d", n), fmt.Sprintf("udp :%d", inside), "")
	for _, ip := range []string{"127.0.0.1", "127.0.0.4"} {
		c := dialUDP(t, fmt.Sprintf("%s:%d", ip, inside), fmt.Sprintf("127.0.0.1:%d", n))
		for range 3 {
			seen, err := inquire(c, "hello", waitTimeout)
			if err != nil || !strings.HasPrefix(seen, ip+":") {
				t.Errorf("%s is seen as %q: %v", c.LocalAddr(), seen, err)
			}
		}
	}
}

// A client that comes before the program has bound its address waits in the host's queue.
func TestProxyDatagramsWait(t *testing.T) {
	n := ktest.Port(t)
	a := datagramsAt(t, fmt.Sprintf("udp://127.0.0.1:%d", n), "udp4 127.0.0.1:53", "", "300ms")
	var all sync.WaitGroup
	for range 100 {
		c := dialUDP(t, "", fmt.Sprintf("127.0.0.1:%d", n))
		all.Go(func() {
			if _, err := inquire(c, "hello", waitTimeout); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if after, err := time.ParseDuration(field(a.wait("state=running"), "after")); err != nil || after < 300*time.Millisecond {
		t.Errorf("it is said to run after %v: %v", after, err)
	}
}

// questions asks 8 times 250, each of them once, and counts those that have got no
// answer in time as cut.
func questions(t *testing.T, addr string, in time.Duration, tl *tally) {
	t.Helper()
	var all sync.WaitGroup
	for worker := range 8 {
		c := dialUDP(t, "", addr)
		all.Go(func() {
			for i := range 250 {
				_, err := inquire(c, fmt.Sprintf("question %d of %d", i, worker), in)
				switch {
				case err == nil:
					tl.answered.Add(1)
				case errors.Is(err, os.ErrDeadlineExceeded):
					tl.cut.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

// A program that ends after twenty answers, over and over, loses none of those that
// it has not read.
func TestProxyDatagramsLoseNobodyToExits(t *testing.T) {
	t.Parallel()
	n := ktest.Port(t)
	a := datagramsAt(t, fmt.Sprintf("udp://127.0.0.1:%d", n), "udp :8000", "", "0s", "20")
	var tl tally
	questions(t, fmt.Sprintf("127.0.0.1:%d", n), waitTimeout, &tl)
	if lost := tl.cut.Load(); lost > 0 {
		t.Errorf("%d of 2,000 questions are not answered", lost)
	}
	if runs := a.log.count("state=running"); runs < 100 {
		t.Errorf("it has run %d times", runs)
	}
}

// A program that is killed at random loses the one that it had read and not answered,
// at most.
func TestProxyDatagramsLoseNobodyToKills(t *testing.T) {
	t.Parallel()
	n := ktest.Port(t)
	a := datagramsAt(t, fmt.Sprintf("udp://127.0.0.1:%d", n), "udp :8000", "")
	stop, kills := make(chan struct{}), make(chan int)
	var tl tally
	go func() { kills <- killAtRandom(a, stop, &tl, 40) }()
	questions(t, fmt.Sprintf("127.0.0.1:%d", n), 3*time.Second, &tl)
	close(stop)
	killed, lost := <-kills, tl.cut.Load()
	t.Logf("2,000 questions, %d kills, %d not answered", killed, lost)
	if lost > int64(killed) || killed == 0 {
		t.Errorf("with %d kills %d are not answered", killed, lost)
	}
}

// A program that closes its socket and lives on is killed, and the next one serves
// who waits; nothing is taken off the host's queue meanwhile.
func TestProxyDatagramsEndTheDeaf(t *testing.T) {
	n := ktest.Port(t)
	a := datagramsAt(t, fmt.Sprintf("udp://127.0.0.1:%d", n), "udp :8000", "hold = \"500ms\"\n", "0s", "3", "away")
	c := dialUDP(t, "", fmt.Sprintf("127.0.0.1:%d", n))
	for i := range 3 {
		if _, err := inquire(c, fmt.Sprint("question ", i), waitTimeout); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := inquire(c, "one more", waitTimeout); err != nil {
		t.Errorf("who has waited for the next program: %v", err)
	}
	a.wait("it does not listen any more")
	a.waitN(2, "state=running")
}

// A service without questions ends, between them, and loses none of them.
func TestProxyDatagramsIdle(t *testing.T) {
	t.Parallel()
	n := ktest.Port(t)
	const idle = 200 * time.Millisecond
	a := datagramsAt(t, fmt.Sprintf("udp://127.0.0.1:%d", n), "udp :8000", fmt.Sprintf("idle_timeout = %q\n", idle))
	c := dialUDP(t, "", fmt.Sprintf("127.0.0.1:%d", n))
	for i := range 80 {
		kind := []string{"", "slow "}[i%2] // in the moment of the stop it has been read, and not answered
		askUntilIdle(t, a, c, fmt.Sprint(kind, "question ", i), idle)
		time.Sleep(time.Duration(rand.IntN(600_000)) * time.Microsecond)
	}
	a.wait("state=stopping", "idle=")
	if a.log.count("level=ERROR")+a.log.count("level=WARN") > 0 {
		t.Errorf("there are complaints in the log")
	}
}

// askUntilIdle asks, and once more where the program has had the question for all of idle_timeout: a busy machine may
// give it no processor in that time.
func askUntilIdle(t *testing.T, a *activator, c net.Conn, text string, idle time.Duration) {
	t.Helper()
	asked := time.Now()
	for begun, first := asked, true; time.Since(begun) < waitTimeout; first = false {
		if stop := a.log.last("state=stopping", "idle="); first || stop.Sub(asked) >= idle {
			asked = time.Now().Truncate(time.Millisecond) // as the log has it
			if _, err := c.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		_, err := readAnswer(c, text, time.Second)
		if err == nil {
			return
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	t.Fatalf("%s: not answered", text)
}

// Clients that were silent for connection_timeout are forgotten, and after activations
// the activator holds what it held before.
func TestProxyDatagramsLeaveNothing(t *testing.T) {
	t.Parallel()
	n := ktest.Port(t)
	a := datagramsAt(t, fmt.Sprintf("udp://127.0.0.1:%d", n), "udp :8000", "connection_timeout = \"10s\"\n") // longer than 200 clients take
	pid := a.cmd.Process.Pid
	ask := func(clients int) {
		for range clients {
			c := dialUDP(t, "", fmt.Sprintf("127.0.0.1:%d", n))
			if _, err := inquire(c, "hello", waitTimeout); err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
	}
	count := func() int {
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		return len(links)
	}
	ask(1)
	before := count()
	ask(200)
	if with := count(); with < before+100 {
		t.Errorf("%d descriptors, with 200 clients %d", before, with)
	}
	for deadline := time.Now().Add(waitTimeout); count() > before+100 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	if after := count(); after > before+100 { // some are kept for the next clients
		t.Errorf("%d descriptors, and %d when the clients are gone", before, after)
	}
	killed(t, pidOf(t, a, 1))
	var settled string
	for run := 1; run <= 24; run++ {
		a.waitN(run+1, "state=listening")
		ask(3)
		killed(t, pidOf(t, a, run+1))
		if run%12 != 0 {
			continue
		}
		a.waitN(run+2, "state=listening")
		settle(t, pid)
		if now := fdsOf(t, pid); run == 12 {
			settled = now
		} else if now != settled {
			t.Errorf("descriptors before:\n%s\nand after %d activations:\n%s", settled, run, now)
		}
	}
}

// What the program holds is of its own network.
func TestProxyDatagramsNoSocketEnters(t *testing.T) {
	n := ktest.Port(t)
	a := datagramsAt(t, fmt.Sprintf("udp://127.0.0.1:%d", n), "udp :8000", "")
	if _, err := inquire(dialUDP(t, "", fmt.Sprintf("127.0.0.1:%d", n)), "hello", waitTimeout); err != nil {
		t.Fatal(err)
	}
	var ours []byte
	for _, table := range []string{"udp", "udp6"} {
		text, err := os.ReadFile("/proc/self/net/" + table)
		if err != nil {
			t.Fatal(err)
		}
		ours = append(ours, text...)
	}
	sockets := 0
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pidOf(t, a, 1)))
	for _, link := range links {
		target, _ := os.Readlink(link)
		inode, is := strings.CutPrefix(target, "socket:[")
		if !is {
			continue
		}
		sockets++
		if bytes.Contains(ours, []byte(" "+strings.TrimSuffix(inode, "]")+" ")) {
			t.Errorf("it holds a socket of the host's network: %s", target)
		}
	}
	if sockets != 1 {
		t.Errorf("it holds %d sockets, want its own", sockets)
	}
}

// What no program has read is not lost by a reload either: the program of the changed
// service has it.
func TestProxyDatagramsOutliveReload(t *testing.T) {
	n := ktest.Port(t)
	dir := folder(t)
	path := configureIn(t, dir, "datagrams", fmt.Sprintf("[[socket]]\nlisten = [\"udp://127.0.0.1:%d\"]\ntarget = \"udp://:8000\"\n"+
		"[service]\nexec = [\"SELF\", \"udp\", \":8000\", \"0s\", \"1\", \"away\"]\nenvironment = [\"ACTIVATOR_TEST_SERVICE=carried datagrams\"]\nhandover = \"proxy\"\nhold = \"5m\"\n%s", n, quick))
	a := activate(t, "--config", dir)
	c := dialUDP(t, "", fmt.Sprintf("127.0.0.1:%d", n))
	for i := range 3 { // the first is answered, and the others have left the host's queue with it
		if _, err := fmt.Fprint(c, "question ", i); err != nil {
			t.Fatal(err)
		}
	}
	next := func() string {
		_ = c.SetReadDeadline(time.Now().Add(waitTimeout))
		buf := make([]byte, 100)
		size, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		_, text, _ := strings.Cut(string(buf[:size]), " ")
		return text
	}
	if text := next(); text != "question 0" {
		t.Fatalf("the first answer is %q", text)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	a.rewrite(path, strings.Replace(string(text), ", \"0s\", \"1\", \"away\"", "", 1))
	// What was answered right before the socket was closed may be answered again.
	for left := map[string]bool{"question 1": true, "question 2": true}; len(left) > 0; {
		delete(left, next())
	}
}
