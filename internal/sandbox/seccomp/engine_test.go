package seccomp

import (
	"testing"

	"golang.org/x/sys/unix"
)

// An engine makes namespaces and mounts, and the sockets by which its parts talk. It makes no
// socket of the internet, and what its container inherits is sealed.
func TestEngineFilter(t *testing.T) {
	const (
		no     = unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)
		denied = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
		option = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOPROTOOPT)
		absent = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
		ask    = unix.SECCOMP_RET_USER_NOTIF
		yes    = unix.SECCOMP_RET_ALLOW
	)
	for _, tt := range []struct {
		call                  int
		args                  [6]uint64
		sealed, free, network uint32 // sealed; not sealed; sealed, with internet sockets
	}{
		{unix.SYS_SOCKET, [6]uint64{unix.AF_INET, unix.SOCK_STREAM}, no, no, ask},
		{unix.SYS_SOCKET, [6]uint64{unix.AF_INET6, unix.SOCK_DGRAM}, no, no, ask},
		{unix.SYS_SOCKET, [6]uint64{unix.AF_UNIX, unix.SOCK_SEQPACKET}, yes, yes, yes},
		{unix.SYS_SOCKET, [6]uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE}, yes, yes, yes},
		{unix.SYS_SOCKET, [6]uint64{unix.AF_PACKET, unix.SOCK_RAW}, no, no, no},
		{unix.SYS_SOCKET, [6]uint64{unix.AF_VSOCK, unix.SOCK_STREAM}, no, no, no},
		{unix.SYS_CONNECT, [6]uint64{}, ask, ask, ask},
		{unix.SYS_BIND, [6]uint64{}, ask, ask, ask},
		{unix.SYS_LISTEN, [6]uint64{}, ask, ask, ask},
		{unix.SYS_SENDTO, [6]uint64{3: unix.MSG_FASTOPEN}, denied, yes, denied},
		{unix.SYS_SETSOCKOPT, [6]uint64{0, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER}, option, yes, option},
		{unix.SYS_IOCTL, [6]uint64{0, unix.SIOCGIFCONF}, denied, yes, denied},
		{unix.SYS_IOCTL, [6]uint64{0, unix.SIOCSIFFLAGS}, denied, yes, ask},
		{unix.SYS_IO_URING_SETUP, [6]uint64{}, absent, absent, absent},
		{unix.SYS_MOUNT, [6]uint64{}, yes, yes, yes},
		{unix.SYS_UNSHARE, [6]uint64{unix.CLONE_NEWNS}, yes, yes, yes},
		{unix.SYS_CLONE3, [6]uint64{}, yes, yes, yes},
	} {
		for _, e := range []struct {
			seal, internet bool
			want           uint32
		}{{true, false, tt.sealed}, {false, false, tt.free}, {true, true, tt.network}} {
			r := Call{Number: uint32(tt.call), Machine: ours.audit, Args: tt.args}
			if got, _ := interpret(t, NewEngineProfile(e.seal, e.internet, false, true).Filter(), r); got != e.want {
				t.Errorf("%+v: call %d%v: %#x, not %#x", e, tt.call, tt.args, got, e.want)
			}
		}
	}
}
