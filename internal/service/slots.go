package service

import (
	"sync"
	"time"
)

// Slots are the one limit on what the services of an activator do with their sandboxes at
// the same time. The next ones are built by and by: a few at a time, none while a client
// waits for a start, and no more of them than there is room for. They also end by and by.
// A service that waits for a slot costs nothing. The methods may be called from any goroutine.
type Slots struct {
	mu     sync.Mutex
	open   bool
	atOnce int // being built at a time
	room   int // being built, or standing
	used   [slotOver + 1]int
	builds []*Slot // that wait
	ends   []*Slot // that wait
}

// Linux 6.18 stands still for good when about a thousand seccomp filters die at
// once, so that processes are told to end in turn. The next one is told when one is gone, or has
// taken endPause. Slow ones so hold up the others for a moment, and those that are killed in the
// end, at their stop_timeout, are killed as far apart as they were told.
const (
	endAtOnce = 64
	endPause  = 100 * time.Millisecond
)

// Slot is one of [Slots]. Its methods do nothing on nil.
type Slot struct {
	of    *Slots
	use   slotUse
	given chan struct{} // has one element when the slot is given
}

type slotUse uint8

const (
	slotWaits   slotUse = iota // to be given
	slotBuilds                 // a sandbox
	slotStands                 // the sandbox stands
	slotHastens                // a start for a client
	slotEnds                   // a process
	slotOver
)

// NewSlots lets atOnce sandboxes be built at a time, from OpenSlots on, and room stand.
func NewSlots(atOnce, room int) *Slots { return &Slots{atOnce: atOnce, room: room} }

// OpenSlots gives the first slots to build.
func (t *Slots) OpenSlots() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open = true
	t.giveSlots()
}

// giveSlots gives what is free to those that have waited longest, with mu held.
func (t *Slots) giveSlots() {
	for t.open && t.used[slotHastens] == 0 && len(t.builds) > 0 && t.used[slotBuilds] < t.atOnce && t.used[slotBuilds]+t.used[slotStands] < t.room {
		t.builds[0].give(slotBuilds)
		t.builds = t.builds[1:]
	}
	for len(t.ends) > 0 && t.used[slotEnds] < endAtOnce {
		if next := t.ends[0]; next.give(slotEnds) {
			time.AfterFunc(endPause, next.End)
		}
		t.ends = t.ends[1:]
	}
}

// QueueBuild asks for a slot, to build a sandbox that stands for no client yet.
func (t *Slots) QueueBuild() *Slot { return t.queueSlot(&t.builds) }

// QueueEnd asks for a slot, to tell a process to end.
func (t *Slots) QueueEnd() *Slot { return t.queueSlot(&t.ends) }

func (t *Slots) queueSlot(queue *[]*Slot) *Slot {
	t.mu.Lock()
	defer t.mu.Unlock()
	slot := &Slot{of: t, given: make(chan struct{}, 1)}
	t.used[slotWaits]++
	*queue = append(*queue, slot)
	t.giveSlots()
	return slot
}

// StartNow says that a client waits for a start, until End.
func (t *Slots) StartNow() *Slot {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.used[slotHastens]++
	return &Slot{of: t, use: slotHastens}
}

// give is called with mu held. A slot that has been ended is not given.
func (o *Slot) give(use slotUse) bool {
	if o.use != slotWaits {
		return false
	}
	o.setUse(use)
	o.given <- struct{}{}
	return true
}

// Given is readable, once, when the slot is given.
func (o *Slot) Given() <-chan struct{} {
	if o == nil {
		return nil
	}
	return o.given
}

// Stand says that the sandbox is built.
func (o *Slot) Stand() { o.changeUse(slotStands) }

// End gives the slot back. Twice is fine.
func (o *Slot) End() { o.changeUse(slotOver) }

func (o *Slot) changeUse(use slotUse) {
	if o == nil {
		return
	}
	o.of.mu.Lock()
	defer o.of.mu.Unlock()
	if o.use != slotOver {
		o.setUse(use)
		o.of.giveSlots()
	}
}

// setUse is called with mu held.
func (o *Slot) setUse(use slotUse) {
	o.of.used[o.use]--
	o.of.used[use]++
	o.use = use
}
