package supervise

import "sync"

// Turns lets the services of an activator build their next sandboxes by and by:
// a few at a time, none while a client waits for a start, and no more of them than
// there is room for. Who is told to wait costs nobody anything. The methods may be
// called from any goroutine.
type Turns struct {
	mu       sync.Mutex
	open     bool
	atOnce   int // being built at a time
	room     int // being built, or standing
	building int
	standing int
	urgent   int // starts for a client
	queue    []*turn
}

// turn is a place in [Turns]; nil is none.
type turn struct {
	turns *Turns
	kind  turnKind
	come  chan struct{} // has one element when the turn has come
}

type turnKind uint8

const (
	waiting turnKind = iota
	building
	standing
	urgent
	over
)

// NewTurns lets atOnce sandboxes be built at a time, from Open on, and room stand.
func NewTurns(atOnce, room int) *Turns { return &Turns{atOnce: atOnce, room: room} }

// Open lets the first ones go.
func (t *Turns) Open() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open = true
	t.serve()
}

// serve calls whoever's turn it is, with mu held.
func (t *Turns) serve() {
	for t.open && t.urgent == 0 && len(t.queue) > 0 && t.building < t.atOnce && t.building+t.standing < t.room {
		next := t.queue[0]
		t.queue[0] = nil
		t.queue = t.queue[1:]
		if next.kind == waiting { // else it has gone away
			next.set(building)
			next.come <- struct{}{}
		}
	}
}

// queueUp asks for a turn.
func (t *Turns) queueUp() *turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	one := &turn{turns: t, kind: waiting, come: make(chan struct{}, 1)}
	t.queue = append(t.queue, one)
	t.serve()
	return one
}

// hurry says that a client waits for a start, until end.
func (t *Turns) hurry() *turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	one := &turn{turns: t, kind: over}
	one.set(urgent)
	return one
}

// called is readable once the turn has come.
func (o *turn) called() <-chan struct{} {
	if o == nil {
		return nil
	}
	return o.come
}

// stand says that the sandbox is built.
func (o *turn) stand() { o.become(standing) }

// end gives the place back. Twice is fine.
func (o *turn) end() { o.become(over) }

func (o *turn) become(kind turnKind) {
	if o == nil {
		return
	}
	o.turns.mu.Lock()
	defer o.turns.mu.Unlock()
	if o.kind != over {
		o.set(kind)
		o.turns.serve()
	}
}

// set is called with mu held.
func (o *turn) set(kind turnKind) {
	for _, change := range [...]struct {
		kind turnKind
		by   int
	}{{o.kind, -1}, {kind, 1}} {
		switch change.kind {
		case building:
			o.turns.building += change.by
		case standing:
			o.turns.standing += change.by
		case urgent:
			o.turns.urgent += change.by
		}
	}
	o.kind = kind
}
