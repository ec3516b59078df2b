package usernotif

import (
	"os"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/behalf"
	"activator/internal/kernel/sockopt"
	"activator/internal/spec"
)

// The longest values of what is handed over. Of what a listener withholds it is a time of 16 bytes, or a name, of
// which the kernel reads no more; and a password must not get behind it. Of an own socket it is a struct
// group_source_req, ip(7).
const (
	longestWithheld = 16
	longestOwn      = 264
)

// copyOption copies a value of setsockopt(2), without what the kernel does not read: of a number, and of a short
// name, what is behind it may not even be there.
func copyOption(thread uint32, use sockopt.Use, at uint64, size int32) (value []byte, err error) {
	if size < 0 {
		return nil, unix.EINVAL
	}
	longest := int32(longestOwn)
	if use&sockopt.Withheld != 0 {
		longest = longestWithheld
	}
	for _, most := range []int32{longest, longestWithheld, 8, 4} {
		if value, err = copyMemory(thread, at, uint64(min(size, most))); err == nil {
			break
		}
	}
	return value, err
}

// setOption sets an option that those who wait at a listener of the host's would inherit: on that it only
// seems to work. Or one that no socket of the host's may have. It is set by our copy of the descriptor, with
// the ids of the service, which may have put another socket there meanwhile.
func (s *Supervisor) setOption(r *request) verdict {
	level, name := optionOf(r.notification)
	switch use := sockopt.UseOf(level, name); {
	case use&sockopt.Allowed == 0 && (use&sockopt.Own == 0 || s.policy.Free || !s.isInNetwork(r)):
		s.tellRefusal(r.notification, spec.Refusal{Errno: unix.ENOPROTOOPT, Key: sealLine})
		return verdict{errno: unix.ENOPROTOOPT}
	case use&sockopt.Withheld != 0 && isIdleTCP(r) && !s.isInNetwork(r):
		return verdict{}
	}
	set := func() error { return sockopt.SetFor(r.fd, level, name, r.sockaddr) }
	if os.Geteuid() != 0 {
		return verdict{errno: errnoOf(set())} // our rights are the service's
	}
	ids, err := behalf.IDsOf(int(r.PID))
	if err != nil || !s.isValid(r.ID) {
		return verdict{errno: errnoOf(err)}
	}
	return verdict{errno: errnoOf(ids.Do(set))}
}

// answerUnseen answers for a socket that we cannot get at as for one of the host's: an option that a listener withholds
// only seems to work.
func answerUnseen(n notification) verdict {
	if sockopt.UseOf(optionOf(n))&sockopt.Withheld != 0 {
		return verdict{}
	}
	return verdict{errno: unix.ENOPROTOOPT}
}

// optionOf returns what option setsockopt(2) is asked to set.
func optionOf(n notification) (level, name int) { return int(int32(n.Args[1])), int(int32(n.Args[2])) }

// isIdleTCP reports whether a socket of TCP is connected to nobody: it listens, or could again.
func isIdleTCP(r *request) bool {
	kind, err := unix.GetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_STREAM || r.domain != unix.AF_INET && r.domain != unix.AF_INET6 {
		return false
	}
	_, err = unix.Getpeername(r.fd)
	return err != nil
}
