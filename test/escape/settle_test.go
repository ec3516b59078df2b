package escape

import (
	"crypto/rand"
	"net"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// That a witness hears nothing is an event here, and not a time: after what is still on its
// way comes a marker of ours, and a server that hears that has heard everything before it.

// markerText is what an intruder sends to a client after its datagram to another address, by
// the same socket.
const markerText = "marker"

// unmarked is how long a witness listens where a probe claims to have sent a datagram, and
// no marker came after it.
const unmarked = 20 * time.Second

// reached reports whether a witness hears the nonce, now or ever.
func (w *world) reached(o *operator, claimed bool) bool {
	w.drain()
	if claimed && w.by(w.nonce) == "" {
		if !o.marked { // a carrier of datagrams may still do so
			w.await(w.nonce, unmarked)
		}
		o.control.Close()
		o.s.end() // no process is left that could send
		w.drain()
	}
	return w.by(w.nonce) != ""
}

// drain returns when the witnesses of datagrams have heard what has been sent to them
// until now.
func (w *world) drain() {
	w.t.Helper()
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		w.t.Fatalf("sched_getaffinity: %v", err)
	}
	for cpu, left := 0, all.Count(); left > 0; cpu++ {
		if all.IsSet(cpu) {
			left--
			w.drainProcessor(cpu, &all)
		}
	}
}

// drainProcessor sends a marker to each witness from one processor: each has a queue of its
// own of what goes over lo, netif_rx of the kernel.
func (w *world) drainProcessor(cpu int, all *unix.CPUSet) {
	w.t.Helper()
	runtime.LockOSThread() // Go starts no thread from one that is locked
	defer runtime.UnlockOSThread()
	var one unix.CPUSet
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return // it is offline, and has no queue
	}
	markers := make(map[string]string)
	for name, network := range map[string]string{"udp4": "udp4", "udp6": "udp6", "unixgram": "unixgram", "abstractgram": "unixgram", "sniffer": "udp4"} {
		if address, there := w.witness[name]; there {
			markers[name] = rand.Text()
			w.say(network, address, markers[name])
		}
	}
	if err := unix.SchedSetaffinity(0, all); err != nil {
		w.t.Errorf("sched_setaffinity: %v", err)
	}
	for name, marker := range markers {
		if !w.await(marker, waitTimeout) {
			w.t.Fatalf("the witness %s is deaf", name)
		}
	}
}

func (w *world) say(network, address, line string) {
	w.t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(line + "\n")); err != nil {
		w.t.Fatal(err)
	}
}

// hearMarker waits until the client of a socket hears the intruder's marker.
func (o *operator) hearMarker(socket string) {
	c := o.w.clients[map[string]int{"udp4": 2, "udp6": 3}[socket]]
	_ = c.SetReadDeadline(time.Now().Add(unmarked))
	text := make([]byte, 100)
	n, err := c.Read(text)
	o.marked = err == nil && strings.TrimSpace(string(text[:n])) == markerText
}
