package behalf

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/proc"
)

// IDs are those by which the kernel judges what a process may do to files, in our user
// namespace: credentials(7).
type IDs struct {
	UID, GID int
	Groups   []int // supplementary, in the kernel's order
}

// IDsOf reads those of a process or a thread.
func IDsOf(pid int) (IDs, error) {
	status, err := proc.ReadStatus(pid)
	if err != nil {
		return IDs{}, err
	}
	uids, err := parseNumbers(status["Uid"]) // real, effective, saved, of the file system
	gids, bad := parseNumbers(status["Gid"])
	groups, worse := parseNumbers(status["Groups"])
	if err = errors.Join(err, bad, worse); err == nil && (len(uids) != 4 || len(gids) != 4) {
		err = unix.EBADMSG
	}
	if err != nil {
		return IDs{}, fmt.Errorf("/proc/%d/status: %w", pid, err)
	}
	return IDs{UID: uids[3], GID: gids[3], Groups: groups}, nil
}

func parseNumbers(text string) (all []int, err error) {
	for _, field := range strings.Fields(text) {
		n, bad := strconv.Atoi(field)
		all, err = append(all, n), errors.Join(err, bad)
	}
	return all, err
}

// ours are the ids of this program, which never change.
var ours = sync.OnceValues(func() (IDs, error) {
	groups, err := unix.Getgroups()
	return IDs{UID: os.Geteuid(), GID: os.Getegid(), Groups: groups}, os.NewSyscallError("getgroups", err)
})

// Do calls f with the ids of the process and without any capability. f makes system calls of
// files and nothing else, on the thread that it is called on. The real and the effective ids
// stay ours: so the process may not signal or trace us, and a peer sees us, not the process.
func (i IDs) Do(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := ours()
	if err != nil {
		return err
	}
	before, err := readCapabilities()
	if err != nil {
		return err
	}
	none := before
	none[0].Effective, none[1].Effective = 0, 0
	defer own.restoreIDs(i, before)
	if err := i.setIDs(own); err != nil {
		return err
	}
	if before != none {
		if err := setCapabilities(&none); err != nil {
			return err
		}
	}
	return f()
}

// setIDs gives the thread the ids of i; own are its present ones.
func (i IDs) setIDs(own IDs) error {
	if !slices.Equal(i.Groups, own.Groups) {
		if err := setGroups(i.Groups); err != nil && (i.UID != own.UID || i.GID != own.GID) {
			return err // our own ids, in a user namespace that refuses setgroups(2), keep the groups
		}
	}
	if err := setFileID(unix.SYS_SETFSGID, i.GID, own.GID); err != nil {
		return err
	}
	return setFileID(unix.SYS_SETFSUID, i.UID, own.UID)
}

// restoreIDs undoes setIDs. A thread with wrong ids is of no use.
func (own IDs) restoreIDs(from IDs, before [2]unix.CapUserData) {
	err := setCapabilities(&before)
	if err == nil {
		err = setFileID(unix.SYS_SETFSUID, own.UID, from.UID)
	}
	if err == nil {
		err = setFileID(unix.SYS_SETFSGID, own.GID, from.GID)
	}
	if err == nil && from.UID != own.UID {
		err = setCapabilities(&before) // setfsuid(2) back to 0 gives all of the permitted ones that files have
	}
	if err == nil && !slices.Equal(from.Groups, own.Groups) {
		if err = setGroups(own.Groups); err != nil {
			if now, e := unix.Getgroups(); e == nil && slices.Equal(now, own.Groups) {
				err = nil // they were never given up
			}
		}
	}
	if err != nil {
		panic(fmt.Sprintf("a thread does not get our own ids back: %v", err))
	}
}

// setFileID is setfsuid(2) or setfsgid(2), which tell of an error only by the next call.
func setFileID(number uintptr, id, now int) error {
	if id == now {
		return nil
	}
	_, _, _ = unix.RawSyscall(number, uintptr(id), 0, 0)
	if got, _, _ := unix.RawSyscall(number, ^uintptr(0), 0, 0); int(int32(got)) != id {
		name := map[uintptr]string{unix.SYS_SETFSUID: "setfsuid", unix.SYS_SETFSGID: "setfsgid"}[number]
		return fmt.Errorf("%w: root needs CAP_SETUID and CAP_SETGID to act as user %d", os.NewSyscallError(name, unix.EPERM), id)
	}
	return nil
}

// setGroups is setgroups(2) of this thread alone: package syscall's is of all.
func setGroups(groups []int) error {
	raw := make([]uint32, len(groups)+1)
	for i, g := range groups {
		raw[i] = uint32(g)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&raw[0])), 0); e != 0 {
		return os.NewSyscallError("setgroups", e)
	}
	return nil
}

func readCapabilities() (data [2]unix.CapUserData, err error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	_, _, e := unix.RawSyscall(unix.SYS_CAPGET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0)
	if e != 0 {
		err = os.NewSyscallError("capget", e)
	}
	return data, err
}

func setCapabilities(data *[2]unix.CapUserData) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	_, _, e := unix.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0)
	if e != 0 {
		return os.NewSyscallError("capset", e)
	}
	return nil
}
