package test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"activator/internal/ktest"
)

// answerMany is a program that listens by itself and answers every client.
func answerMany(network, addr string) {
	l, err := net.Listen(network, addr)
	for err == nil {
		var c net.Conn
		if c, err = l.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			c.Close()
		}
	}
	fmt.Println(err)
	os.Exit(1)
}

// answerOne is a program that listens by itself, answers one client, and ends.
func answerOne(network, addr string) {
	l, err := net.Listen(network, addr)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	c, err := l.Accept()
	l.Close() // no other client waits in its own queue when it ends
	if err == nil {
		_, err = io.Copy(c, c)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	c.Close()
	os.Exit(0)
}

// firstServices are services that end after every client, so that each client is the
// first: of every kind of socket and each way to hand it over. ADDR is an own address,
// PORT an own port, DIR a folder.
var firstServices = []struct{ name, listen, more string }{
	{"tcp", "tcp://127.0.0.1:PORT", `exec = ["ECHO", "--exit-after", "1"]`},
	{"tcp6", "tcp://[::1]:PORT", `exec = ["ECHO", "--exit-after", "1"]`},
	{"udp", "udp://127.0.0.1:PORT", `exec = ["ECHO", "--exit-after", "1"]`},
	{"udp again", "udp://127.0.0.1:PORT", `exec = ["ECHO", "--exit-after", "1"]`},
	{"udp6", "udp://[::1]:PORT", `exec = ["ECHO", "--exit-after", "1"]`},
	{"udp unsealed", "udp://127.0.0.1:PORT", "exec = [\"ECHO\", \"--exit-after\", \"1\"]\n[sandbox]\nseal = \"off\""},
	{"unix", "unix://DIR/s", `exec = ["ECHO", "--exit-after", "1"]`},
	{"unixgram", "unixgram://DIR/s", `exec = ["ECHO", "--exit-after", "1"]`},
	{"unixgram unsealed", "unixgram://DIR/s", "exec = [\"ECHO\", \"--exit-after\", \"1\"]\n[sandbox]\nseal = \"off\""},
	{"bind", "tcp://127.0.0.1:PORT", "handover = \"bind\"\nexec = [\"SELF\", \"tcp4\", \":8000\"]\nenvironment = [\"ACTIVATOR_TEST_SERVICE=answer one\"]"},
	{"bind udp", "udp://127.0.0.1:PORT", "handover = \"bind\"\nexec = [\"SELF\", \"udp4\", \":8000\", \"0s\", \"1\"]\nenvironment = [\"ACTIVATOR_TEST_SERVICE=carried datagrams\"]"},
	// It is stopped when no client is there: a client that was accepted when such a program ends by itself is lost with it.
	{"proxy", "tcp://127.0.0.1:PORT", "idle_timeout = \"50ms\"\nhandover = \"proxy\"\nexec = [\"SELF\", \"tcp4\", \":8000\"]\nenvironment = [\"ACTIVATOR_TEST_SERVICE=answer many\"]"},
	{"proxy udp", "udp://127.0.0.1:PORT", "handover = \"proxy\"\nexec = [\"SELF\", \"udp4\", \":8000\", \"0s\", \"1\"]\nenvironment = [\"ACTIVATOR_TEST_SERVICE=carried datagrams\"]"},
	{"stdio", "tcp://127.0.0.1:PORT", "handover = \"stdio\"\naccept = true\nexec = [\"/bin/cat\"]"},
}

// firstClients is how many clients come in TestFirstClients; with
// ACTIVATOR_FIRST_CLIENTS=100000 it takes a quarter of an hour.
func firstClients(t *testing.T) int {
	t.Helper()
	text := os.Getenv("ACTIVATOR_FIRST_CLIENTS")
	if text == "" {
		return 1000
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The first client of a program is never lost, at whatever moment it comes
// while its sandbox is built, stands or is armed.
func TestFirstClients(t *testing.T) {
	t.Parallel()
	each := max(1, firstClients(t)/len(firstServices))
	dir := folder(t)
	addrs := make([]string, len(firstServices))
	for i, s := range firstServices {
		addrs[i] = strings.NewReplacer("PORT", strconv.Itoa(ktest.Port(t)), "DIR/s", fmt.Sprintf("%s/%d.sock", dir, i)).Replace(s.listen)
		more := strings.ReplaceAll(s.more, "handover", "target = \"TARGET\"\nhandover")
		before, service, bound := strings.Cut(more, "target = \"TARGET\"\n")
		target := ""
		if network, _, _ := strings.Cut(addrs[i], ":"); bound && !strings.Contains(service, "stdio") {
			target = fmt.Sprintf("target = \"%s4://:8000\"\n", network)
		}
		configureIn(t, dir, fmt.Sprintf("service%d", i), fmt.Sprintf("[[socket]]\nlisten = [%q]\n%s[service]\n%s%s%s\n", addrs[i], target, quick, before, service))
	}
	a := activate(t, "--log-level", "debug", "--config", dir)
	moments := sandboxStates(a.log, len(addrs))
	var answered atomic.Int64
	var all sync.WaitGroup
	for i, addr := range addrs {
		all.Go(func() {
			for n := range each {
				awaitMoment(moments[i])
				if err := askFirst(dir, addr, i*each+n); err != nil {
					t.Errorf("%s: client %d at %s: %v", firstServices[i].name, n, time.Now().UTC().Format(time.RFC3339Nano), err)
					return
				}
				answered.Add(1)
			}
		})
	}
	all.Wait()
	a.stop()
	states := statesAtFirst(a.log.all())
	t.Logf("%d of %d clients were answered; they started programs in these states: %v", answered.Load(), each*len(addrs), states)
	if states["warming"] == 0 || states["warm"] == 0 {
		t.Error("they did not come around the moment at which a sandbox stands")
	}
}

// sandboxStates tells, for each service, of the states in which its sandbox is built and
// stands, until the log ends. What is not taken in time is forgotten.
func sandboxStates(log *lines, services int) []chan string {
	states := make([]chan string, services)
	for i := range states {
		states[i] = make(chan string, 8)
	}
	go func() {
		for next, ended := 0, false; !ended; {
			log.mu.Lock()
			text, more := log.text, log.more
			ended = log.ended
			log.mu.Unlock()
			for ; next < len(text); next++ {
				n, err := strconv.Atoi(strings.TrimPrefix(field(text[next], "service"), "service"))
				state := field(text[next], "state")
				if err == nil && (state == "warming" || state == "warm") {
					select {
					case states[n] <- state:
					default:
					}
				}
			}
			if !ended {
				<-more
			}
		}
	}()
	return states
}

// awaitMoment returns around one of the moments in the life of a sandbox: somewhere
// while it is built, right when it stands, or anywhere.
func awaitMoment(states chan string) {
	for range len(states) {
		<-states
	}
	wanted, spread := "warming", 6*time.Millisecond
	switch rand.IntN(5) {
	case 0:
		time.Sleep(rand.N(8 * time.Millisecond))
		return
	case 1, 2:
		wanted, spread = "warm", 300*time.Microsecond
	}
	for limit := time.After(200 * time.Millisecond); ; {
		select {
		case state := <-states:
			if state == wanted {
				time.Sleep(rand.N(spread))
				return
			}
		case <-limit:
			return
		}
	}
}

// askFirst is one client.
func askFirst(dir, addr string, n int) error {
	network, at, _ := strings.Cut(addr, "://")
	if network != "unixgram" {
		if network == "udp" {
			return askOnce(network, nil, at, n)
		}
		return ask(network, at, n)
	}
	return askOnce(network, &net.UnixAddr{Net: network, Name: fmt.Sprintf("@%s.%d", dir, n)}, at, n)
}

// askOnce sends one datagram, and waits for its answer.
func askOnce(network string, from net.Addr, to string, n int) error {
	c, err := (&net.Dialer{LocalAddr: from}).Dial(network, to)
	if err != nil {
		return err
	}
	defer c.Close()
	want := fmt.Sprintf("request %d", n)
	if _, err := c.Write([]byte(want)); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(waitTimeout))
	got := make([]byte, 64)
	k, err := c.Read(got)
	if err == nil && !strings.HasSuffix(string(got[:k]), want) { // some name the client, too
		err = errors.New("the answer is " + strconv.Quote(string(got[:k])))
	}
	return err
}

// statesAtFirst counts the states of services in which a client came.
func statesAtFirst(log []string) map[string]int {
	states, last := map[string]int{}, map[string]string{}
	for _, line := range log {
		state, service := field(line, "state"), field(line, "service")
		if state == "starting" {
			states[last[service]]++
		}
		if state != "" {
			last[service] = state
		}
	}
	return states
}
