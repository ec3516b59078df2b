package usernotif

import "golang.org/x/sys/unix"

var ownerCalls = map[int32]ownerCall{
	unix.SYS_FCHOWN:   {uid: 2, gid: 3},
	unix.SYS_FCHOWNAT: {path: pathCall{folder: 1, path: 2}, uid: 3, gid: 4, flags: 5},
}
