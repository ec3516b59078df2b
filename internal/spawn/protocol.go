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
// (its length as 4 bytes, then JSON) and, when it likes, wordGo; end of file
// instead of either ends the stage. The stage answers with these words. After
// wordExec the end of file means that execve succeeded: the socket is CLOEXEC.
const (
	wordReady = 'r' // everything is built; waiting for wordGo
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

	Sandbox *sandbox.Plan // nil: bare
	Trees   []int         // the stage's fds of the sandbox's mounts; nil: it opens them itself

	Notify     int    // the stage's fd of the socket to bind at NotifyPath; 0: none
	NotifyPath string // NOTIFY_SOCKET; "": none

	Init  bool // stay as a reaper, and exec in a child
	Inner bool // the child of a reaper: everything is built
}

func writePlan(w io.Writer, p *plan) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	message := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(text)), uint32(len(text)))
	_, err = w.Write(append(message, text...))
	return err
}

func readPlan(r io.Reader) (*plan, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	text := make([]byte, binary.LittleEndian.Uint32(size[:]))
	if _, err := io.ReadFull(r, text); err != nil {
		return nil, err
	}
	p := new(plan)
	return p, json.Unmarshal(text, p)
}

// decodeRefusal is the error in a word that was not the expected one.
func decodeRefusal(word byte, text []byte, step string) error {
	refusal := new(StageError)
	if word != wordError || json.Unmarshal(text, refusal) != nil {
		return &StageError{Step: step, Errno: syscall.EPROTO, Cure: "the second stage said something else: is the activator's binary being replaced?"}
	}
	return refusal
}
