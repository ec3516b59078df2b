package handover

import (
	"sync"

	"activator/internal/process"
	"activator/internal/usernotif"
)

// bind is [Handover] to a program that binds its sockets itself, and has ours in answer.
type bind struct {
	inherit
	mu      sync.Mutex // guards answers: Missing is asked meanwhile
	ended   chan struct{}
	waiting sync.WaitGroup
}

func (h *bind) Given() process.Inputs { return h.given() }

func (h *bind) Answer(child *process.Process) {
	h.child = child
	answers := h.answerCalls(h.newPolicy())
	h.mu.Lock()
	h.answers = answers
	h.mu.Unlock()
}

// Serve waits until the program listens at all its targets.
func (h *bind) Serve(serving func()) {
	h.ended = make(chan struct{})
	h.Answer(h.child)
	h.waiting.Go(func() {
		select {
		case <-h.answers.Serving():
			serving()
		case <-h.ended:
		}
	})
}

// newPolicy answers bind with the sockets, which it lends.
func (h *bind) newPolicy() usernotif.Policy {
	p, b := h.inherit.newPolicy(), h.Spec.Sandbox
	p.Unsealed, p.Free = !b.Seal, !b.Seal && b.Connect != "unix"
	for i, socket := range h.Spec.Sockets {
		p.Targets = append(p.Targets, usernotif.Target{Address: socket.Target, File: h.files[i], Mapped: socket.Mapped})
	}
	return p
}

func (h *bind) DescribeMissing() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.answers.DescribeMissing()
}

func (h *bind) End() {
	if h.ended != nil {
		close(h.ended)
		h.waiting.Wait()
	}
	h.answers.end()
}
