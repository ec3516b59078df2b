package replyonly

import (
	"encoding/binary"
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

// HelperName is argv[0] of the helper, the activator's own binary; the number of
// its socket is argv[1].
const HelperName = "activator-udp"

// A request is one message of up to maxKinds kinds, each of three numbers; the
// answer is one message of an index and an errno, with all sockets or none.
const (
	maxKinds   = 253 // SCM_MAX_FD, unix(7)
	kindSize   = 3 * 4
	answerSize = 2 * 4
)

// Exit codes of the helper.
const (
	exitDone   = 0
	exitFailed = 125
)

// IsHelper reports whether this process was started as the helper.
func IsHelper() bool { return len(os.Args) == 2 && os.Args[0] == HelperName }

// Helper makes the sockets that it is asked for until nobody asks any more. It
// never returns.
func Helper() {
	code := exitDone
	conn, err := strconv.Atoi(os.Args[1])
	if err != nil || serve(conn) != nil {
		code = exitFailed
	}
	unix.Exit(code)
}

func serve(conn int) error {
	request := make([]byte, maxKinds*kindSize)
	for {
		n, err := retry(func() (int, error) { return unix.Read(conn, request) })
		if err != nil || n == 0 {
			return err
		}
		kinds, err := decodeKinds(request[:n])
		if err != nil {
			return err
		}
		if err := answer(conn, kinds); err != nil {
			return err
		}
	}
}

func answer(conn int, kinds []spec.Kind) error {
	fds, answer, err := makeSockets(kinds)
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	var rights []byte
	if err == nil {
		rights = unix.UnixRights(fds...)
	}
	_, err = retry(func() (int, error) { return 0, unix.Sendmsg(conn, answer, rights, nil, unix.MSG_NOSIGNAL) })
	return err
}

// makeSockets makes as many as it can; the answer says which one it could not.
func makeSockets(kinds []spec.Kind) (fds []int, answer []byte, err error) {
	for i, k := range kinds {
		fd, err := unix.Socket(k.Family, k.Type|unix.SOCK_CLOEXEC, k.Protocol)
		if err != nil {
			return fds, encodeAnswer(i, err), err
		}
		fds = append(fds, fd)
	}
	return fds, encodeAnswer(0, nil), nil
}

func encodeKinds(kinds []spec.Kind) []byte {
	b := make([]byte, 0, len(kinds)*kindSize)
	for _, k := range kinds {
		for _, n := range []int{k.Family, k.Type, k.Protocol} {
			b = binary.NativeEndian.AppendUint32(b, uint32(n))
		}
	}
	return b
}

func decodeKinds(b []byte) ([]spec.Kind, error) {
	if len(b) == 0 || len(b)%kindSize != 0 || len(b) > maxKinds*kindSize {
		return nil, errors.New("request of " + strconv.Itoa(len(b)) + " bytes")
	}
	kinds := make([]spec.Kind, 0, len(b)/kindSize)
	for ; len(b) > 0; b = b[kindSize:] {
		n := func(i int) int { return int(int32(binary.NativeEndian.Uint32(b[4*i:]))) }
		kinds = append(kinds, spec.Kind{Family: n(0), Type: n(1), Protocol: n(2)})
	}
	return kinds, nil
}

func encodeAnswer(index int, err error) []byte {
	var errno unix.Errno
	if err != nil && !errors.As(err, &errno) {
		errno = unix.EIO
	}
	return binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(nil, uint32(index)), uint32(errno))
}

// decodeAnswer returns the errno, 0 for none, and the index of the kind that it
// is about.
func decodeAnswer(b []byte) (index int, errno unix.Errno, err error) {
	if len(b) != answerSize {
		return 0, 0, errors.New("answer of " + strconv.Itoa(len(b)) + " bytes")
	}
	return int(binary.NativeEndian.Uint32(b)), unix.Errno(binary.NativeEndian.Uint32(b[4:])), nil
}

// retry is for the system calls that a signal may interrupt.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}
