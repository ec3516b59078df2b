package udprelay

import (
	"container/list"
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/budget"
	"activator/internal/kernel/fd"
	"activator/internal/kernel/sockaddr"
)

// mostFlows is how many clients there may be at a time, as far as RLIMIT_NOFILE has room for them.
const mostFlows = 16384

const defaultExpire = 2 * time.Minute

// Where the table is full a new client takes the place of the one that was silent for longest, but not that
// of one that has asked again after an answer, if that was within silence: it is known to hear us, and may
// be sent more. A source that is ever another one never is. What a client loses by it is an answer that is
// still to come: with the next datagram it has a flow again, at the same address.
var silence = 3 * time.Second

// mostReplaced is how many make room at once, as the sockets for others are made together.
const mostReplaced = 32

// errFull says that there is no room for another flow.
var errFull = errors.New("no room for another flow")

// flow is a client, and the flow socket that stands inside at the client's address. Answers
// that arrive there go to the client.
type flow struct {
	fd     int // owned; -1: none yet
	client sockaddr.Raw
	key    string // of the client in the table
	udpFlow
	unixFlow

	// Of the table.
	slot, generation int32         // in the socket's events
	last             time.Duration // of the last datagram, on the clock of the relay
	answered         bool          // since it was opened
	known            bool          // has asked after an answer
	place            *list.Element // in the order of last use
	ready            bool          // in the queue of those that have answers
}

// udpFlow is what a relay of UDP knows of a client.
type udpFlow struct {
	inner     sockaddr.Raw   // what the client's datagrams are sent to inside
	connected bool           // the flow socket is, to inner
	asks      netip.Addr     // address of the host that the client asked, as far as that is known
	asked     controlMessage // which said so
	from      controlMessage // by which answers leave from it
	gso       int            // bytes; the longest segment of an answer, 0: the way out cannot do it
	burst     int            // how many answers are asked for at once

	own     bool // of a program: the flow socket has the client's own address
	period  int  // of a program: the last in which it was sent something
	answers int  // in that period
}

// unixFlow is what a relay of unix datagrams knows of a client.
type unixFlow struct {
	sender  sender // the process that has opened the flow
	node    int    // of the client, O_PATH, owned; -1: none
	reached bool   // the client can be answered
	held    []byte // an answer that the client has no room for; nil: none
}

// newFlow is the flow of a client without a socket.
func newFlow(client *sockaddr.Raw, key []byte) *flow {
	return &flow{fd: -1, client: *client, key: string(key), unixFlow: unixFlow{node: -1}}
}

// flowTable has the flows of a relay: by client, by the number in an event, and in the order
// of their last use. It has flow sockets ready, and counts all of them.
type flowTable struct {
	most        int                                // flows
	expire      time.Duration                      // how long a client may be silent
	makeSockets func(domain, n int) ([]int, error) // at least one and at most n; the table takes them

	byClient map[string]*flow
	slots    []*flow // by the number in an event; nil: free
	free     []int32
	counts   int32     // generations, so that a late event does not hit a new flow
	order    list.List // of *flow that are not known; the one that was not used for longest comes first
	known    list.List // of those that are
	ready    []*flow   // that have answers
	carried  atomic.Uint64

	share   budget.Share  // flow sockets and nodes
	unbound map[int][]int // flow sockets that are made ahead, by their domain
	refused time.Duration // before that no more are made
	vacated int           // sockets of flows that have made room, in place of which others may be made
}

func newFlowTable(expire time.Duration) flowTable {
	if expire <= 0 {
		expire = defaultExpire
	}
	return flowTable{most: mostFlows, expire: expire, byClient: make(map[string]*flow), unbound: make(map[int][]int)}
}

// close closes the sockets that no flow has, when there are no flows any more.
func (t *flowTable) close() {
	for domain, fds := range t.unbound {
		closeAll(fds)
		delete(t.unbound, domain)
	}
	t.share.Close()
}

// addFlow takes a flow that has its socket.
func (t *flowTable) addFlow(f *flow, now time.Duration) {
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
	f.last, f.place = now, t.order.PushBack(f)
	t.share.Take(1)
}

// removeFlow forgets f and closes what it has.
func (t *flowTable) removeFlow(f *flow) {
	delete(t.byClient, f.key)
	t.slots[f.slot] = nil
	t.free = append(t.free, f.slot)
	t.listOf(f).Remove(f.place)
	if i := slices.Index(t.ready, f); i >= 0 {
		t.ready = slices.Delete(t.ready, i, i+1)
	}
	_ = unix.Close(f.fd) // also takes it out of the epoll: it is in no other table
	f.fd = -1
	t.share.Give(1)
	t.closeNode(f)
}

// setNode gives f the node of its client, which f takes.
func (t *flowTable) setNode(f *flow, node int) {
	f.node = node
	t.share.Take(1)
}

// closeNode takes the node of f's client away, if there is one.
func (t *flowTable) closeNode(f *flow) {
	if f.node >= 0 {
		_ = unix.Close(f.node)
		f.node = -1
		t.share.Give(1)
	}
}

// findFlow returns the flow of an event, nil when it is gone.
func (t *flowTable) findFlow(slot, generation int32) *flow {
	if int(slot) >= len(t.slots) || slot < 0 {
		return nil
	}
	if f := t.slots[slot]; f != nil && f.generation == generation {
		return f
	}
	return nil
}

// listOf is the order that f is in.
func (t *flowTable) listOf(f *flow) *list.List {
	if f.known {
		return &t.known
	}
	return &t.order
}

// firstOf returns the first flow of an order, nil when there is none.
func firstOf(l *list.List) *flow {
	if e := l.Front(); e != nil {
		return e.Value.(*flow)
	}
	return nil
}

// oldestFlow returns the flow that was not used for longest, nil when there are none.
func (t *flowTable) oldestFlow() *flow {
	f, known := firstOf(&t.order), firstOf(&t.known)
	if f == nil || known != nil && known.last < f.last {
		return known
	}
	return f
}

// noteQuestion notes that the client of f has sent something.
func (t *flowTable) noteQuestion(f *flow, now time.Duration) {
	t.touchFlow(f, now)
	if !f.answered || f.known {
		return
	}
	t.setKnown(f, true)
	if t.known.Len() > t.most-t.most/4 { // some places are for the new
		t.setKnown(firstOf(&t.known), false)
	}
}

// noteAnswer notes that f has carried an answer.
func (t *flowTable) noteAnswer(f *flow, now time.Duration) {
	f.answered = true
	t.touchFlow(f, now)
}

// setKnown makes f the last of the other order.
func (t *flowTable) setKnown(f *flow, known bool) {
	t.listOf(f).Remove(f.place)
	f.known, f.answered = known, known
	f.place = t.listOf(f).PushBack(f)
}

// touchFlow notes that f carries something now. The order is kept to within a grain.
func (t *flowTable) touchFlow(f *flow, now time.Duration) {
	t.carried.Add(1)
	if now-f.last >= t.expiryGrain() {
		t.renewFlow(f, now)
	}
}

func (t *flowTable) renewFlow(f *flow, now time.Duration) {
	f.last = now
	t.listOf(f).MoveToBack(f.place)
}

// expiryGrain is how exactly flows expire.
func (t *flowTable) expiryGrain() time.Duration { return min(t.expire/16, time.Second) }

// nextExpired returns a flow whose client was silent for too long; nil: there is none.
func (t *flowTable) nextExpired(now time.Duration) *flow {
	for f := t.oldestFlow(); f != nil && now-f.last >= t.expire; f = t.oldestFlow() {
		if f.held != nil || !isAnswered(f) {
			return f
		}
		t.wakeFlow(f)
		t.renewFlow(f, now)
	}
	return nil
}

// isAnswered reports whether an answer lies in the socket of f: it came in time,
// and we are late.
func isAnswered(f *flow) bool {
	ready, _ := fd.Poll(f.fd, unix.POLLIN, 0)
	return ready&unix.POLLIN != 0
}

// nextExpiry is when flows expire next, once for all that are due soon after; 0: never.
func (t *flowTable) nextExpiry() time.Duration {
	if f := t.oldestFlow(); f != nil {
		return f.last + t.expire + t.expiryGrain()
	}
	return 0
}

// isFull reports whether there is no room for another flow.
func (t *flowTable) isFull() bool {
	return len(t.byClient) >= t.most || t.countUnbound() == 0 && t.share.Room() <= 0
}

// replaceableFlow returns the flow that may make room for another one; nil: there is none. One whose
// answer lies in its socket waits for that to be carried.
func (t *flowTable) replaceableFlow(now time.Duration) *flow {
	for range min(t.order.Len(), mostReplaced) {
		f := firstOf(&t.order)
		if f.held == nil && !isAnswered(f) {
			return f
		}
		t.wakeFlow(f)
		t.order.MoveToBack(f.place)
	}
	if f := firstOf(&t.known); f != nil && now-f.last >= min(silence, t.expire) {
		return f
	}
	return nil
}

// wakeFlow notes that f has answers.
func (t *flowTable) wakeFlow(f *flow) {
	if !f.ready {
		f.ready = true
		t.ready = append(t.ready, f)
	}
}

// firstDone takes the first ready flow out of the queue; one that has more goes to its end.
func (t *flowTable) firstDone(more bool) {
	f := t.ready[0]
	t.ready = slices.Delete(t.ready, 0, 1)
	if f.ready = false; more {
		t.wakeFlow(f)
	}
}

// countUnbound is how many unbound flow sockets there are.
func (t *flowTable) countUnbound() (n int) {
	for _, fds := range t.unbound {
		n += len(fds)
	}
	return n
}

// addUnbound takes unbound flow sockets.
func (t *flowTable) addUnbound(domain int, fds ...int) {
	t.unbound[domain] = append(t.unbound[domain], fds...)
	t.share.Take(len(fds))
}

// takeSocket returns an unbound flow socket, which the caller closes.
func (t *flowTable) takeSocket(domain int, now time.Duration) (int, error) {
	if len(t.unbound[domain]) == 0 {
		if err := t.makeMore(domain, now); err != nil {
			return -1, err
		}
	}
	n := len(t.unbound[domain]) - 1
	fd := t.unbound[domain][n]
	t.unbound[domain] = t.unbound[domain][:n]
	t.share.Give(1)
	return fd, nil
}

const (
	firstFlows = 8   // flow sockets that come with a relay socket, of each family
	mostMade   = 128 // flow sockets that are made at once
)

// makeMore makes as many more flow sockets as there are flows already, which keeps that rare.
func (t *flowTable) makeMore(domain int, now time.Duration) error {
	if now < t.refused {
		return errFull
	}
	room := t.share.Room()
	if domain == unix.AF_UNIX {
		room = (room + 1) / 2 // each has a node, too
	}
	if room = max(room, t.vacated); room <= 0 {
		room = t.closeOthers(domain)
	}
	n := min(max(len(t.byClient), firstFlows), mostMade, t.most-len(t.byClient), room)
	if n <= 0 {
		return errFull
	}
	fds, err := t.makeSockets(domain, n)
	if err != nil {
		t.refused = now + time.Second // there may be many new clients
		return err
	}
	t.vacated = 0
	t.addUnbound(domain, fds...)
	return nil
}

// closeOthers closes the unbound sockets of other domains, and returns how many there were.
func (t *flowTable) closeOthers(domain int) (n int) {
	for other, fds := range t.unbound {
		if other != domain {
			closeAll(fds)
			n += len(fds)
			delete(t.unbound, other)
		}
	}
	t.share.Give(n)
	return n
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
