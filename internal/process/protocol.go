package process

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"syscall"

	"activator/internal/spec"
)

// childName is argv[0] of a reaper: the activator's own binary. It is also the name,
// in ps(1), of a child that has not become the program yet.
const childName = "activator-stage"

// We and the child talk over one stream socketpair, whose end of file tells each that
// the other is gone; the child's end closes at execve. A child that is a call list says:
const (
	msgSeparate = 'u' // it has descriptors of its own; and gets, with msgFiles, those that are lent
	msgListener = 'w' // with it comes the filter's listener
	msgReady    = 'r' // everything is built; waiting for msgGo
	msgError    = 'e' // a call has failed; it waits for the end of file
)

// It hears:
const (
	msgFiles = 'f' // with it come descriptors
	msgGo    = 'g' // with it may come the client's socket
)

// A reaper is told its plan first (its length as 4 bytes, then what codec writes). It
// says msgReady, too, msgError with a StepError as JSON, and
const (
	msgClient  = 'h' // heard before msgGo: environment follows as codec writes it, and with the word came a socket
	msgRunning = 'k' // execve succeeded in a child, and the reaper keeps the socket
)

// plan is what becomes of a child that has been shut in: of its specification, complete,
// what a reaper is told.
type plan struct {
	spec.Process
	Sockets int
	Engine  bool // what the program leaves behind is given time to end
}

func writePlan(w io.Writer, p *plan) error {
	c := codec{data: make([]byte, 4, 4096)}
	c.codePlan(p)
	binary.LittleEndian.PutUint32(c.data, uint32(len(c.data)-4))
	_, err := w.Write(c.data)
	return err
}

func readPlan(r io.Reader) (*plan, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	c := codec{reading: true, data: make([]byte, binary.LittleEndian.Uint32(size[:]))}
	if _, err := io.ReadFull(r, c.data); err != nil {
		return nil, err
	}
	p := new(plan)
	if c.codePlan(p); c.broken || len(c.data) > 0 {
		return nil, &StepError{Step: "plan", Errno: syscall.EBADMSG, Cure: "is the activator's binary being replaced?"}
	}
	return p, nil
}

// decodeRefusal is the error in a word that was not the expected one.
func decodeRefusal(word byte, text []byte, step string) error {
	refusal := new(StepError)
	if word != msgError || json.Unmarshal(text, refusal) != nil {
		return &StepError{Step: step, Errno: syscall.EPROTO, Cure: "the reaper said something else: is the activator's binary being replaced?"}
	}
	return refusal
}
