package process

import (
	"encoding/binary"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/fdpass"
)

type reaperProcess struct {
	control *os.File // blocking, and so without the runtime's poller, which is another thread
	plan    *plan
}

// awaitRelease waits for msgGo, without a limit of time, and takes the client that may come
// before it.
func (s *reaperProcess) awaitRelease() error {
	for {
		msg, brought, err := s.receiveMessage()
		if err != nil {
			return io.EOF
		}
		if msg != msgClient {
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

// receiveMessage reads one message, and the descriptor that may come with it; -1: none.
func (s *reaperProcess) receiveMessage() (msg byte, brought int, err error) {
	var data [1]byte
	var message fdpass.Receiver
	n, brought, err := message.Receive(fdOf(s.control, -1), data[:])
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
