package process

import (
	"encoding/binary"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/fdpass"
	"activator/internal/spec"
)

// ReleaseWith gives a prepared process the socket of its client, and environment that
// only the client makes known, and the word to go: it is Release for a process
// that has a client of its own. It waits for nobody, and lends connection for the call. The process was
// prepared with [spec.Process].Handed, which says at which numbers the socket will be. What
// is already in the environment by the same name is replaced. An error says that
// the process is gone.
func (p *Process) ReleaseWith(connection *os.File, env []string) error {
	if err := p.checkGuard(); err != nil {
		return err
	}
	if !p.hasReaper {
		return p.releaseCallList(connection, env)
	}
	c := codec{data: make([]byte, 5, 256)}
	c.codeTexts(&env)
	c.data[0] = msgClient
	binary.LittleEndian.PutUint32(c.data[1:], uint32(len(c.data)-5))
	if err := fdpass.SendFiles(p.control, append(c.data, msgGo), []*os.File{connection}); err != nil {
		return goneError(err)
	}
	return nil
}

func goneError(err error) error {
	return &StepError{Step: "hand", Errno: errnoOf(err), Cure: "the sandbox is gone: was it killed while it waited?"}
}

// releaseCallList is ReleaseWith for a child that reads its environment where we wrote it.
func (p *Process) releaseCallList(connection *os.File, env []string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.calls == nil {
		return goneError(os.ErrClosed)
	}
	if err := p.calls.writeEnv(replaceEntries(p.env, env)); err != nil {
		return err
	}
	if err := fdpass.SendFiles(p.control, []byte{msgGo}, []*os.File{connection}); err != nil {
		return goneError(err)
	}
	return nil
}

// placesOf are the numbers of the socket that is brought.
func placesOf(h spec.Handed) []int {
	if h == spec.LaterStdio {
		return []int{0, 1}
	}
	return []int{3}
}

// placeSockets puts sockets where they belong. What will be brought is /dev/null so far.
func placeSockets(h spec.Handed, stdio *Stdio, sockets []*os.File) []*os.File {
	switch h {
	case spec.LaterFD:
		return []*os.File{nil}
	case spec.LaterStdio:
		stdio.In, stdio.Out = nil, nil
		return nil
	case spec.StdioStart:
		stdio.In, stdio.Out = sockets[0], sockets[0]
		return nil
	}
	return sockets
}

// awaitRelease waits for the word to go, for ever if it does not come, and takes what is
// brought before it.
func (s *reaperProcess) awaitRelease() error {
	for {
		word, brought, err := s.receiveMessage()
		if err != nil {
			return io.EOF
		}
		if word != msgClient {
			return nil
		}
		err = s.takeClient(brought)
		if brought >= 0 {
			_ = unix.Close(brought)
		}
		if err != nil {
			return err
		}
	}
}

// receiveMessage reads one word, and the descriptor that may come with it; -1: none.
func (s *reaperProcess) receiveMessage() (word byte, brought int, err error) {
	var data [1]byte
	var message fdpass.Receiver
	n, brought, err := message.Receive(int(s.control), data[:])
	if err != nil || n == 0 {
		return 0, -1, io.EOF
	}
	return data[0], brought, nil
}

// takeClient puts what was brought where the program will look for it.
func (s *reaperProcess) takeClient(brought int) error {
	var size [4]byte
	if _, err := io.ReadFull(s.control, size[:]); err != nil {
		return io.EOF
	}
	c := codec{reading: true, data: make([]byte, binary.LittleEndian.Uint32(size[:]))}
	if _, err := io.ReadFull(s.control, c.data); err != nil {
		return io.EOF
	}
	var env []string
	if c.codeTexts(&env); c.broken || brought < 0 {
		return &StepError{Step: "hand", Errno: syscall.EBADMSG, Cure: "is the activator's binary being replaced?"}
	}
	s.plan.Env = replaceEntries(s.plan.Env, env)
	for _, place := range placesOf(s.plan.Handed) {
		if err := unix.Dup3(brought, place, 0); err != nil {
			return &StepError{Step: "hand", Errno: errnoOf(err)}
		}
	}
	return nil
}

// replaceEntries is env with the entries of more, and without others of their names.
func replaceEntries(env, more []string) []string {
	return slices.Concat(slices.DeleteFunc(slices.Clone(env), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.ContainsFunc(more, func(m string) bool { return strings.HasPrefix(m, name+"=") })
	}), more)
}
