package listen

import (
	"os"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockopt"
	"activator/internal/spec"
)

// A placeholder keeps a TCP port from other users, as inet_csk_bind_conflict() of the kernel has
// it. Sockets that have SO_REUSEADDR may be bound to one address, whoever owns them, as long as none
// of them listens. A listener that its service has shut down does not, and then any user could
// take the port. A placeholder is bound to the address of the listener, never listens, is never
// lent, and has no SO_REUSEADDR: beside it nobody binds.
//
// Only one option lets two sockets of one user have an address in spite of that: SO_REUSEPORT. So
// they have it while a listener asks for its port once more, and at no other time: a second
// activator of the same user gets EADDRINUSE.

// openPlaceholder opens the placeholder of a listener that is bound and does not listen yet. It keeps
// the port from others when it has lost SO_REUSEADDR, after the listener has begun to listen.
func openPlaceholder(listener *os.File, want spec.Socket) (*os.File, error) {
	if !want.Address.IsTCP() {
		return nil, nil
	}
	want.Seal, want.Options.MPTCP = spec.Unsealed, false // MPTCP's ports are TCP's
	file, _, err := newSocket(want, new(pool))
	if err != nil {
		return nil, err
	}
	err = control(listener, func(fd int) error {
		at, err := unix.Getsockname(fd)
		if err != nil {
			return os.NewSyscallError("getsockname", err)
		}
		return control(file, func(fd int) error { return os.NewSyscallError("bind", unix.Bind(fd, at)) })
	})
	if err != nil {
		_ = file.Close()
		return nil, wrapError(want.Address, "placeholder", err, bindCure(want.Address, &want.Options, err))
	}
	return file, nil
}

// sharePort lets sockets of ours have one address, nil ones left out. The function that it returns
// ends that, but for what reuse_port allows.
func sharePort(want spec.Socket, sockets ...*os.File) (end func()) {
	set := func(on bool) {
		for _, file := range sockets {
			_ = control(file, func(fd int) error {
				sockopt.SetReusePort(fd, on)
				return nil
			})
		}
	}
	set(true)
	return func() { set(want.Options.ReusePort) }
}
