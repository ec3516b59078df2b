package handover

import (
	"os"
	"slices"
	"time"

	"activator/internal/epoll"
	"activator/internal/listen"
	"activator/internal/process"
)

// inherit is [Handover] to a program that starts with the sockets, as descriptors or as its
// stdin and stdout: which numbers they have is [spec.Process].Handed. The other ways are
// built upon it.
type inherit struct {
	Service
	client  process.Client
	files   []*os.File // lent, of each socket
	child   *process.Process
	answers answers
}

func (h *inherit) Given() process.Inputs {
	given := h.given()
	given.Sockets = h.files
	return given
}

// given is what every process starts with. One whose client is there does not wait for Go.
func (h *inherit) given() process.Inputs { return process.Inputs{Client: h.client} }

func (h *inherit) Answer(child *process.Process) {
	h.child = child
	h.answers = h.answerCalls(h.newPolicy())
}

func (h *inherit) Attach(child *process.Process) error {
	h.child = child
	return nil
}

func (h *inherit) Go(*listen.Connection) error {
	if h.client == process.ClientAbsent { // else Lend has
		for _, socket := range h.Sockets {
			if err := socket.Admit(); err != nil {
				return err
			}
		}
	}
	return h.child.Release()
}

func (h *inherit) NewFastPath() (*epoll.FastPath, error) {
	if slices.ContainsFunc(h.Sockets, func(socket *listen.Socket) bool { return !socket.AdmitsNothing() }) {
		return nil, nil // it takes memory of the kernel's
	}
	return h.child.NewFastPath()
}

func (h *inherit) Serve(serving func()) {
	h.answers = h.answerCalls(h.newPolicy())
	serving()
}

func (h *inherit) Up() {}

func (h *inherit) Leave() {}

func (h *inherit) Retire(r Retirement) bool { return r.StopIf() }

func (h *inherit) Activity(n int) (listen.Activity, error) { return h.Sockets[n].Activity() }

func (h *inherit) DescribeMissing() string { return "" }

func (h *inherit) End() { h.answers.end() }

// Retirement is the end of a program that no client uses.
type Retirement struct {
	Stop   func()        // tells the program to end
	StopIf func() bool   // does so only if no client is seen while the program stands still
	Seen   []uint64      // what each of the sockets had carried when no client was there
	Quiet  time.Duration // a client that has been carried since is answered by a program that is quiet for so long
}
