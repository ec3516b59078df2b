package process

import "sync"

// reserve is one child in namespaces of its own that belongs to no service yet. The kernel
// takes longer to make these than for the rest of a start, most of it for the network. So once
// a client has had to wait for that, one more child than is needed stands ready for the next
// client that finds no sandbox: of any service, since the child knows nothing, and has no mount
// of the host's.
type reserve struct {
	cloner *cloner
	shape  childShape

	mu      sync.Mutex
	wanted  bool // a client had to wait
	cloning bool
	closed  bool
	ready   *child
	working sync.WaitGroup
}

// takeChild takes the child, if there is one and it is as shape says. The caller owns it, and its
// call list.
func (r *reserve) takeChild(shape childShape) *child {
	if shape != r.shape {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wanted = true
	taken := r.ready
	r.ready = nil
	if taken != nil && taken.hasEnded() {
		taken.endChild()
		taken.calls.Close()
		return nil
	}
	return taken
}

// refill makes another child, if one is wanted and there is none. It is called when a
// process has ended, and not while one starts.
func (r *reserve) refill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.wanted || r.cloning || r.closed || r.ready != nil {
		return
	}
	r.cloning = true
	r.working.Go(func() {
		made := r.cloneChild()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.cloning, r.ready = false, made
	})
}

// cloneChild returns nil where that fails: the next start clones its own child, and is told
// why.
func (r *reserve) cloneChild() *child {
	list, slot, err := r.cloner.beginCalls(r.shape)
	if err != nil {
		return nil
	}
	made := r.cloner.cloneOnThread(r.shape, list, slot, func(int) error { return nil })
	if made.err != nil {
		list.Close()
		return nil
	}
	return &made
}

// close ends the child.
func (r *reserve) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.working.Wait()
	if r.ready != nil {
		r.ready.endChild()
		r.ready.calls.Close()
		r.ready = nil
	}
}
