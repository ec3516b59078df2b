package listen

import (
	"os"

	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

// openSpec makes the socket or FIFO of spec, from the pool; the caller owns what it
// returns. The thread it runs on should have a umask of 0, see [withoutUmask].
func openSpec(want spec.Socket, from *pool) (boundSocket, error) {
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
	err = bindAndListen(file, family, want)
	if err != nil {
		_ = file.Close()
		return boundSocket{}, err
	}
	return boundSocket{file: file, state: stateOf(file)}, nil
}

func bindAndListen(file *os.File, family int, want spec.Socket) error {
	a, o := want.Address, &want.Options
	err := control(file, func(fd int) error {
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
	return startListening(file, want)
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
	return boundSocket{file: file, node: n, state: stateOf(file)}, nil
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
