package service

import "sync"

// StartSlots let the services of an activator build their next sandboxes by and by:
// a few at a time, none while a client waits for a start, and no more of them than
// there is room for. A service that waits for a slot costs nobody anything. The methods
// may be called from any goroutine.
type StartSlots struct {
	mu       sync.Mutex
	open     bool
	atOnce   int // being built at a time
	room     int // being built, or standing
	building int
	standing int
	urgent   int // starts for a client
	queue    []*StartSlot
}

// StartSlot is one of [StartSlots]. Its methods do nothing on nil.
type StartSlot struct {
	of    *StartSlots
	use   slotUse
	given chan struct{} // has one element when the slot is given
}

type slotUse uint8

const (
	waiting slotUse = iota
	building
	standing
	urgent
	over
)

// NewStartSlots lets atOnce sandboxes be built at a time, from Open on, and room stand.
func NewStartSlots(atOnce, room int) *StartSlots { return &StartSlots{atOnce: atOnce, room: room} }

// Open gives the first slots.
func (t *StartSlots) Open() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open = true
	t.giveSlots()
}

// giveSlots gives what is free to those that have waited longest, with mu held.
func (t *StartSlots) giveSlots() {
	for t.open && t.urgent == 0 && len(t.queue) > 0 && t.building < t.atOnce && t.building+t.standing < t.room {
		next := t.queue[0]
		t.queue[0] = nil
		t.queue = t.queue[1:]
		if next.use == waiting { // else it has gone away
			next.setUse(building)
			next.given <- struct{}{}
		}
	}
}

// Queue asks for a slot, to build a sandbox that stands for no client yet.
func (t *StartSlots) Queue() *StartSlot {
	t.mu.Lock()
	defer t.mu.Unlock()
	slot := &StartSlot{of: t, use: waiting, given: make(chan struct{}, 1)}
	t.queue = append(t.queue, slot)
	t.giveSlots()
	return slot
}

// StartNow says that a client waits for a start, until End.
func (t *StartSlots) StartNow() *StartSlot {
	t.mu.Lock()
	defer t.mu.Unlock()
	slot := &StartSlot{of: t, use: over}
	slot.setUse(urgent)
	return slot
}

// Given is readable, once, when the slot is given.
func (o *StartSlot) Given() <-chan struct{} {
	if o == nil {
		return nil
	}
	return o.given
}

// Stand says that the sandbox is built.
func (o *StartSlot) Stand() { o.change(standing) }

// End gives the slot back. Twice is fine.
func (o *StartSlot) End() { o.change(over) }

func (o *StartSlot) change(use slotUse) {
	if o == nil {
		return
	}
	o.of.mu.Lock()
	defer o.of.mu.Unlock()
	if o.use != over {
		o.setUse(use)
		o.of.giveSlots()
	}
}

// setUse is called with mu held.
func (o *StartSlot) setUse(use slotUse) {
	for _, change := range [...]struct {
		use slotUse
		by  int
	}{{o.use, -1}, {use, 1}} {
		switch change.use {
		case building:
			o.of.building += change.by
		case standing:
			o.of.standing += change.by
		case urgent:
			o.of.urgent += change.by
		}
	}
	o.use = use
}
