package escape

import (
	"golang.org/x/sys/unix"
)

// makeIPC makes something of System V's in the host's namespace, which everybody of the same user may use, and
// returns its id. It is gone at the end of the test.
func (w *world) makeIPC(what string) (id int, err error) {
	const create, mode, remove = unix.IPC_CREAT, 0o666, unix.IPC_RMID
	call := func(number uintptr, arguments ...uintptr) int {
		var a [4]uintptr
		copy(a[:], arguments)
		value, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], 0, 0)
		if errno != 0 {
			err = errno
		}
		return int(value)
	}
	switch what {
	case "memory":
		if id, err = unix.SysvShmGet(unix.IPC_PRIVATE, 4096, create|mode); err != nil {
			return 0, err
		}
		w.t.Cleanup(func() { _, _ = unix.SysvShmCtl(id, remove, nil) })
		segment, err := unix.SysvShmAttach(id, 0, 0)
		if err != nil {
			return 0, err
		}
		copy(segment, w.secret)
		return id, unix.SysvShmDetach(segment)
	case "queue":
		id = call(unix.SYS_MSGGET, unix.IPC_PRIVATE, create|mode)
		w.t.Cleanup(func() { call(unix.SYS_MSGCTL, uintptr(id), remove, 0) })
	default:
		id = call(unix.SYS_SEMGET, unix.IPC_PRIVATE, 1, create|mode)
		w.t.Cleanup(func() { call(unix.SYS_SEMCTL, uintptr(id), 0, remove) })
	}
	return id, err
}
