package sandbox

import (
	"os"

	"golang.org/x/sys/unix"
)

// Drop gives up, for the calling thread and what it will exec, every capability
// but those p keeps, and the right to get new ones. Nothing of it can be undone.
//
// Order: the bounding set first, it needs CAP_SETPCAP; then all other sets at
// once, which takes the ambient ones along (capabilities(7)).
func (p *Plan) Drop() error {
	for number := range uintptr(64) {
		if p.Keep&(1<<number) != 0 {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, number, 0, 0, 0)
		if err == unix.EINVAL { // past the last one this kernel knows
			break
		}
		if err != nil {
			return stepError("capabilities", "bounding set", os.NewSyscallError("prctl", err))
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	for i := range data {
		mask := uint32(p.Keep >> (32 * i))
		data[i] = unix.CapUserData{Effective: mask, Permitted: mask, Inheritable: mask}
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return stepError("capabilities", "", os.NewSyscallError("capset", err))
	}
	if p.NewPrivs {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return stepError("no_new_privileges", "", os.NewSyscallError("prctl", err))
	}
	return nil
}
