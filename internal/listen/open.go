package listen

import (
	"os"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockopt"
	"activator/internal/spec"
)

// openSpec makes the socket or FIFO of spec, from the pool; the caller owns what it
// returns. The thread it runs on should have a umask of 0, see [withoutUmask].
func openSpec(want spec.Socket, from *pool) (boundSocket, error) {
	return openBeside(want, from, nil, nil)
}

// openBeside is openSpec of what takes the place of another socket: old, which is still bound to its
// address, and its placeholder, which goes over to the new one. Either may be nil.
func openBeside(want spec.Socket, from *pool, old, placeholder *os.File) (boundSocket, error) {
	if want.Address.Network == spec.FIFO {
		return openFIFO(want)
	}
	if want.Address.Node() != "" {
		return openUnixPath(want, from)
	}
	file, family, err := newSocket(want, from)
	if err != nil {
		return boundSocket{}, err
	}
	made := boundSocket{file: file, placeholder: placeholder}
	if err := made.bindAndListen(family, want, old); err != nil {
		_ = file.Close()
		return boundSocket{}, err
	}
	made.state = stateOf(file, from.password(want))
	return made, nil
}

// bindAndListen binds the socket, beside old and the placeholder if there are any, and gives it a
// placeholder if it needs one.
func (b *boundSocket) bindAndListen(family int, want spec.Socket, old *os.File) error {
	if old != nil || b.placeholder != nil {
		defer sharePort(want, b.file, old, b.placeholder)()
	}
	a, o := want.Address, &want.Options
	err := control(b.file, func(fd int) error {
		sa, err := makeSockaddr(fd, family, a)
		if err != nil {
			return wrapError(a, "", err, "")
		}
		err = os.NewSyscallError("bind", unix.Bind(fd, sa))
		return wrapError(a, "", err, bindCure(a, o, err))
	})
	if err != nil {
		return err
	}
	fresh := b.placeholder == nil
	if fresh {
		if b.placeholder, err = openPlaceholder(b.file, want); err != nil {
			return err
		}
	}
	err = startListening(b.file, want)
	_ = control(b.placeholder, func(fd int) error {
		sockopt.SetReuseAddress(fd, false)
		return nil
	})
	if err != nil && fresh {
		_ = b.placeholder.Close()
	}
	return err
}

// openUnixPath binds a unix socket to a path. No client can connect to a stream
// socket before listen(2), which comes last; the node never has a wider mode
// than it shall have, or another owner.
func openUnixPath(want spec.Socket, from *pool) (boundSocket, error) {
	a := want.Address
	who, err := lookupOwner(&want.Options)
	if err != nil {
		return boundSocket{}, wrapError(a, "", err, "")
	}
	at, err := makePlace(a.Path, &want.Options)
	if err != nil {
		return boundSocket{}, wrapError(a, "", err, "")
	}
	defer at.Close()
	defer at.lockFolder(from.means.Warn)()
	if err := at.clearPath(); err != nil {
		return boundSocket{}, wrapError(a, "", err, "")
	}
	file, family, err := newSocket(want, from)
	if err != nil {
		return boundSocket{}, err
	}
	id, err := bindPath(at, file, family, want, who)
	if err != nil {
		_ = file.Close()
		return boundSocket{}, err
	}
	n := &node{path: a.Path, id: id, made: true}
	n.makeReserve(at)
	if err := startListening(file, want); err != nil {
		n.removeFrom(at)
		_ = file.Close()
		return boundSocket{}, err
	}
	return boundSocket{file: file, node: n, state: stateOf(file, sockopt.Password{})}, nil
}

func bindPath(at place, file *os.File, family int, want spec.Socket, who owner) (id inode, err error) {
	a, mode := want.Address, nodeMode(&want.Options)
	birth := mode
	if who.isGiven() {
		birth = 0 // no client gets in before it has its owner
	}
	err = control(file, func(fd int) error {
		// The node takes the mode of the unbound socket, less the umask: unix_bind_bsd()
		// of the kernel.
		if err := unix.Fchmod(fd, uint32(birth)); err != nil {
			return wrapError(a, "socket_mode", os.NewSyscallError("fchmod", err), "")
		}
		sa, err := makeSockaddr(fd, family, a)
		if err != nil {
			return wrapError(a, "", err, "")
		}
		if err := at.bindSocket(fd, sa); err != nil {
			return wrapError(a, "", os.NewSyscallError("bind", err), bindCure(a, &want.Options, err))
		}
		if id, err = at.setUpNode(fd, mode, who); err != nil {
			at.removeInode(at.Name, id)
		}
		return wrapError(a, "", err, ownerCure(err))
	})
	return id, err
}
