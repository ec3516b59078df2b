package udprelay

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// flow is a client: a socket beside the relay socket, at the client's address. Answers that
// arrive there go to the client.
type flow struct {
	fd        int // owned
	client    rawAddr
	key       string  // client's bytes
	inner     rawAddr // what the client's datagrams are sent to inside
	gso       int     // bytes; the longest segment of an answer, 0: the way out cannot do it
	burst     int     // how many answers are asked for at once
	ready     bool    // in table.ready
	connected bool    // fd is, to inner

	from  [ctlSize]byte // control message: the host's address that the client asked
	fromN int
	asked [ctlSize]byte // what from was made of
	askN  int

	asks    netip.Addr // of the host, as far as that is known
	own     bool       // it has the client's own address
	round   int        // of carry: the last in which it was sent something
	answers int        // in that round

	sender  sender // unix: who has opened it
	node    int    // unix: of the client, O_PATH, owned; -1: none
	reached bool   // unix: the client can be answered
	held    []byte // unix: an answer that the client has no room for; nil: none

	slot         int32
	generation   int32
	last         time.Duration // of the last datagram, on the clock of the relay
	older, newer *flow
}

// table is the flows of a relay, by client and in the order of their last use.
type table struct {
	byClient map[string]*flow
	slots    []*flow // by the number in the epoll event; nil: free
	free     []int32
	counts   int32 // generations, so that a late event does not hit a new flow

	oldest, newest *flow
	ready          []*flow // that have answers
}

func (t *table) add(f *flow) {
	if t.byClient == nil {
		t.byClient = make(map[string]*flow)
	}
	if n := len(t.free); n > 0 {
		f.slot, t.free = t.free[n-1], t.free[:n-1]
	} else {
		f.slot = int32(len(t.slots))
		t.slots = append(t.slots, nil)
	}
	t.counts++
	f.generation = t.counts
	t.slots[f.slot] = f
	t.byClient[f.key] = f
	t.append(f)
}

// remove forgets f and closes its socket.
func (t *table) remove(f *flow) {
	delete(t.byClient, f.key)
	t.slots[f.slot] = nil
	t.free = append(t.free, f.slot)
	t.unlink(f)
	if f.ready {
		for i, r := range t.ready {
			if r == f {
				t.ready = append(t.ready[:i], t.ready[i+1:]...)
				break
			}
		}
	}
	_ = unix.Close(f.fd) // also takes it out of the epoll: nobody else has it
	f.fd = -1
}

// find returns the flow of an epoll event, nil when it is gone.
func (t *table) find(slot, generation int32) *flow {
	if int(slot) >= len(t.slots) || slot < 0 {
		return nil
	}
	if f := t.slots[slot]; f != nil && f.generation == generation {
		return f
	}
	return nil
}

// wake notes that f has answers.
func (t *table) wake(f *flow) {
	if !f.ready {
		f.ready = true
		t.ready = append(t.ready, f)
	}
}

// rest takes the first ready flow out; with again it goes to the end.
func (t *table) rest(again bool) {
	f := t.ready[0]
	copy(t.ready, t.ready[1:])
	t.ready = t.ready[:len(t.ready)-1]
	f.ready = false
	if again {
		t.wake(f)
	}
}

// touch notes that f was used now. The order is kept to within grain.
func (t *table) touch(f *flow, now, grain time.Duration) {
	if now-f.last < grain {
		return
	}
	f.last = now
	if t.newest != f {
		t.unlink(f)
		t.append(f)
	}
}

func (t *table) append(f *flow) {
	f.older, f.newer = t.newest, nil
	if t.newest != nil {
		t.newest.newer = f
	} else {
		t.oldest = f
	}
	t.newest = f
}

func (t *table) unlink(f *flow) {
	if f.older != nil {
		f.older.newer = f.newer
	} else {
		t.oldest = f.newer
	}
	if f.newer != nil {
		f.newer.older = f.older
	} else {
		t.newest = f.older
	}
	f.older, f.newer = nil, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
