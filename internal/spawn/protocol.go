package spawn

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"syscall"

	"activator/internal/sandbox"
)

// StageName is argv[0] of the second stage: the activator's own binary on its
// way to become the program.
const StageName = "activator-stage"

// Parent and stage talk over one stream socketpair. The parent sends the plan
// (its length as 4 bytes, then what codec writes) and, when it likes, wordGo; end of file
// instead of either ends the stage. The stage answers with these words. After
// wordExec the end of file means that execve succeeded: the socket is CLOEXEC.
const (
	wordWatch = 'w' // before wordReady: 8 bytes follow, and with the word came the filter's listener
	wordReady = 'r' // everything is built; waiting for wordGo
	wordHand  = 'h' // before wordGo: environment follows as codec writes it, and with the word came a socket
	wordGo    = 'g'
	wordExec  = 'x' // nothing left but execve
	wordKept  = 'k' // after wordExec: execve succeeded in a child, and a reaper keeps the socket
	wordError = 'e' // a StageError as JSON follows, then end of file
)

// plan is what the stage is told.
type plan struct {
	Argv, Env []string
	Dir       string
	Umask     int
	Limits    []Limit
	FDNames   []string // one for every socket, the fds from 3 on
	Sockets   int
	Handed    Handed // where the socket goes that comes with wordHand

	Sandbox *sandbox.Plan // nil: bare
	Trees   []int         // the stage's fds of the sandbox's mounts; nil: it opens them itself

	Notify     int    // the stage's fd of the socket to bind at NotifyPath; 0: none
	NotifyPath string // NOTIFY_SOCKET; "": none

	Init  bool // stay as a reaper, and exec in a child
	Inner bool // the child of a reaper: everything is built
}

func writePlan(w io.Writer, p *plan) error {
	c := codec{data: make([]byte, 4, 4096)}
	c.plan(p)
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
	if c.plan(p); c.broken || len(c.data) > 0 {
		return nil, &StageError{Step: "plan", Errno: syscall.EBADMSG, Cure: "is the activator's binary being replaced?"}
	}
	return p, nil
}

// decodeRefusal is the error in a word that was not the expected one.
func decodeRefusal(word byte, text []byte, step string) error {
	refusal := new(StageError)
	if word != wordError || json.Unmarshal(text, refusal) != nil {
		return &StageError{Step: step, Errno: syscall.EPROTO, Cure: "the second stage said something else: is the activator's binary being replaced?"}
	}
	return refusal
}
