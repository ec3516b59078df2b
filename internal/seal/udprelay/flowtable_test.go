package udprelay

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/budget"
	"activator/internal/kernel/sockaddr"
)

// newTable is a flow table that is closed when the test ends. Its sockets are of no network.
func newTable(t *testing.T, expire time.Duration) *flowTable {
	t.Helper()
	table := newFlowTable(expire)
	table.makeSockets = func(domain, n int) (fds []int, err error) {
		for range n {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return fds, err
			}
			fds = append(fds, fd)
		}
		return fds, nil
	}
	t.Cleanup(func() {
		for f := table.oldestFlow(); f != nil; f = table.oldestFlow() {
			table.removeFlow(f)
		}
		table.close()
		if n := budget.Taken(); n != 0 {
			t.Errorf("%d descriptors are still counted", n)
		}
	})
	return &table
}

// addClient adds the flow of a new client.
func addClient(t *testing.T, table *flowTable, name string, now time.Duration) *flow {
	t.Helper()
	client, _ := sockaddr.Unix([]byte(name), true)
	f := newFlow(&client, client.Bytes())
	var err error
	if f.fd, err = table.takeSocket(unix.AF_UNIX, now); err != nil {
		t.Fatal(err)
	}
	table.addFlow(f, now)
	return f
}

// A late event is not that of the flow that has the place now.
func TestFlowTableEvents(t *testing.T) {
	table := newTable(t, 0)
	old := addClient(t, table, "old", 0)
	other := addClient(t, table, "other", 0)
	table.wakeFlow(old)
	table.wakeFlow(other)
	table.wakeFlow(other)
	slot, generation := old.slot, old.generation
	table.removeFlow(old)
	if !slices.Equal(table.ready, []*flow{other}) {
		t.Errorf("%d flows are ready", len(table.ready))
	}
	next := addClient(t, table, "next", 0)
	if next.slot != slot || table.findFlow(slot, generation) != nil || table.findFlow(slot, next.generation) != next {
		t.Errorf("slot %d is %v for generation %d", slot, table.findFlow(slot, generation), generation)
	}
	for _, none := range []int32{hostSlot, 2, 1000} {
		if table.findFlow(none, 1) != nil {
			t.Errorf("slot %d has a flow", none)
		}
	}
	if table.byClient[other.key] != other || table.byClient[old.key] != nil {
		t.Error("a client has another's flow")
	}
	table.wakeFlow(next)
	if table.firstDone(true); !slices.Equal(table.ready, []*flow{next, other}) {
		t.Error("one with more answers is not behind the others")
	}
	if table.firstDone(false); !slices.Equal(table.ready, []*flow{other}) || next.ready {
		t.Error("one without more answers is ready")
	}
}

// The client that was silent for longest goes first, and not before its time, nor with an answer.
func TestFlowTableExpiry(t *testing.T) {
	const expire = 16 * time.Second
	table := newTable(t, expire)
	if table.nextExpiry() != 0 || table.nextExpired(time.Hour) != nil {
		t.Error("an empty table expires")
	}
	first, second, third := addClient(t, table, "1", 0), addClient(t, table, "2", 1), addClient(t, table, "3", 2)
	table.touchFlow(first, table.expiryGrain()-1) // too soon to be noted
	if table.oldestFlow() != first || table.carried.Load() != 1 {
		t.Errorf("%s is the oldest, %d are carried", table.oldestFlow().client.String(), table.carried.Load())
	}
	table.touchFlow(first, 2*time.Second)
	if table.nextExpired(expire) != nil || table.nextExpired(expire+1) != second {
		t.Error("the second one does not expire in its time")
	}
	if at := table.nextExpiry(); at != 1+expire+table.expiryGrain() {
		t.Errorf("it looks after %v", at)
	}
	// An answer came to the second one in time.
	name, _ := sockaddr.Unix([]byte(fmt.Sprintf("relay-test-table-%d", second.fd)), true)
	if err := errors.Join(sockaddr.Bind(second.fd, &name), sockaddr.Connect(third.fd, &name), sendUnix(third.fd, []byte("answer"), nil, nil)); err != nil {
		t.Fatal(err)
	}
	if f := table.nextExpired(expire + 2); f != third || !second.ready || second.last != expire+2 {
		t.Errorf("%v expires, the answered one is ready: %v, of %v", f, second.ready, second.last)
	}
}

// There is room for so many, then one that was silent makes room, unless it is known to hear us; and the budget counts all.
func TestFlowTableRoom(t *testing.T) {
	table := newTable(t, time.Minute)
	table.most = 2 * firstFlows
	for i := range 2 * firstFlows {
		if table.isFull() {
			t.Fatalf("full with %d flows", i)
		}
		addClient(t, table, fmt.Sprint(i), 0)
		if taken := table.share.Taken(); taken != len(table.byClient)+table.countUnbound() || taken != budget.Taken() {
			t.Fatalf("%d are counted, of %d and %d", taken, len(table.byClient), table.countUnbound())
		}
	}
	oldest := table.oldestFlow()
	if !table.isFull() || table.replaceableFlow(0) != oldest {
		t.Error("no client makes room in a full table")
	}
	table.noteAnswer(oldest, 0)
	if table.replaceableFlow(0) != oldest {
		t.Error("one answer makes it known")
	}
	for f := oldest; f != nil; f = firstOf(&table.order) {
		table.noteAnswer(f, 0)
		if table.noteQuestion(f, 0); table.replaceableFlow(0) == f {
			t.Error("a known client makes room")
		}
		if table.known.Len() > table.most*3/4 {
			t.Fatal("there is no place for new ones")
		}
		if table.known.Len() == table.most*3/4 {
			break
		}
	}
	for f := firstOf(&table.order); f != nil; f = firstOf(&table.order) {
		table.removeFlow(f)
	}
	if table.replaceableFlow(silence-1) != nil || table.replaceableFlow(silence) != table.oldestFlow() {
		t.Error("of known ones the wrong one makes room")
	}
	f := table.oldestFlow()
	node, err := unix.Dup(f.fd)
	if err != nil {
		t.Fatal(err)
	}
	taken := table.share.Taken()
	if table.setNode(f, node); table.share.Taken() != taken+1 {
		t.Error("a node is not counted")
	}
	if table.removeFlow(f); table.share.Taken() != taken-1 || table.isFull() && table.countUnbound() > 0 {
		t.Error("a flow and its node are still counted")
	}
}

// Sockets that cannot be had are not asked for with every datagram.
func TestFlowTableRefused(t *testing.T) {
	table := newTable(t, 0)
	asked := 0
	table.makeSockets = func(int, int) ([]int, error) { asked++; return nil, unix.EPERM }
	for _, tt := range []struct {
		now  time.Duration
		want error
	}{{0, unix.EPERM}, {time.Second - 1, errFull}, {time.Second, unix.EPERM}} {
		if _, err := table.takeSocket(unix.AF_INET, tt.now); err != tt.want {
			t.Errorf("after %v: %v, not %v", tt.now, err, tt.want)
		}
	}
	if asked != 2 {
		t.Errorf("asked %d times", asked)
	}
}
