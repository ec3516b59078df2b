package test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"activator/internal/ktest"
)

// idleClients is how many clients come in TestIdleLosesNobody; with
// ACTIVATOR_IDLE_CLIENTS=200000 it takes some minutes.
func idleClients(t *testing.T) int {
	t.Helper()
	text := os.Getenv("ACTIVATOR_IDLE_CLIENTS")
	if text == "" {
		return 20_000
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A service is stopped whenever no client has used it for 50 ms, and clients come at
// random moments of its running, its stopping and its sleep, by stream and by
// datagram: each is answered, by the old instance or the next.
func TestIdleLosesNobody(t *testing.T) {
	t.Parallel()
	const burst = 100
	total := idleClients(t)
	dir, port := folder(t), ktest.Port(t)
	addrs := []string{
		fmt.Sprintf("tcp://127.0.0.1:%d", port), "unix://" + dir + "/s",
		fmt.Sprintf("udp://127.0.0.1:%d", port), "unixgram://" + dir + "/g",
	}
	a := activate(t, "--config", configureIn(t, dir, "idle",
		fmt.Sprintf("[[socket]]\nlisten = [%q, %q, %q, %q]\n[service]\nexec = [\"ECHO\"]\nidle_timeout = \"50ms\"\n", addrs[0], addrs[1], addrs[2], addrs[3])))
	peers := datagramPeers(t, port, dir, burst)
	var sent, came atomic.Int64
	for sent.Load() < int64(total) {
		time.Sleep(30*time.Millisecond + time.Duration(rand.IntN(80_000))*time.Microsecond) // before, while and after it stops
		var wg sync.WaitGroup
		for range burst {
			wg.Go(func() {
				time.Sleep(time.Duration(rand.IntN(40_000)) * time.Microsecond)
				i := int(sent.Add(1))
				if err := idleAsk(port, dir, peers, i); err != nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
				came.Add(1)
			})
		}
		wg.Wait()
		if t.Failed() {
			break
		}
	}
	stops, kills := a.log.count("state=stopping", " idle="), a.log.count("its time is over")
	t.Logf("%d clients, %d answered, %d stops", sent.Load(), came.Load(), stops)
	if sent.Load() != came.Load() || stops < total/2000 || kills > 0 {
		t.Errorf("of %d clients %d were answered; %d stops, %d kills", sent.Load(), came.Load(), stops, kills)
	}
}

// idleAsk is one client, of each kind in turn. Those by datagram come again and
// again: a relay has room for some thousand clients in two minutes.
func idleAsk(port int, dir string, peers chan [2]net.Conn, i int) error {
	switch i % 4 {
	case 0:
		return ask("tcp", fmt.Sprintf("127.0.0.1:%d", port), i)
	case 1:
		return ask("unix", dir+"/s", i)
	}
	pair := <-peers
	defer func() { peers <- pair }()
	c := pair[i%2]
	if err := c.SetDeadline(time.Now().Add(waitTimeout)); err != nil {
		return err
	}
	want := fmt.Sprintf("datagram %d", i)
	if _, err := c.Write([]byte(want)); err != nil {
		return err
	}
	got := make([]byte, 64)
	n, err := c.Read(got)
	if err == nil && string(got[:n]) != want {
		err = fmt.Errorf("answer %q, want %q", got[:n], want)
	}
	return err
}

// datagramPeers are sockets to ask by UDP and by unix datagram from.
func datagramPeers(t *testing.T, port int, dir string, n int) chan [2]net.Conn {
	t.Helper()
	peers := make(chan [2]net.Conn, n)
	for i := range n {
		udp, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("@idle-%d-%d", os.Getpid(), i)
		gram, err := net.DialUnix("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"}, &net.UnixAddr{Name: dir + "/g", Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = udp.Close(), gram.Close() })
		peers <- [2]net.Conn{udp, gram}
	}
	return peers
}
