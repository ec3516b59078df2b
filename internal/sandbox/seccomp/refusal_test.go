package seccomp

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

// A supervisor that gives the refusals opens nothing: each call has the answer that the filter alone
// gives, or is the supervisor's, who is told that answer.
func TestObservedRefusesTheSame(t *testing.T) {
	for name, plain := range profiles() {
		if plain.refusesNothing() {
			continue
		}
		refusesTheSame(t, name, plain, false)
		refusesTheSame(t, name+", paths", plain, true)
	}
}

func refusesTheSame(t *testing.T, name string, plain Profile, paths bool) {
	observed := plain
	observed.observe, observed.paths = true, paths
	v := plain.wholeVerdict(*ours)
	program := assemble(observed.wholeVerdict(*ours))
	handed := 0
	for number := range uint32(newest + 40) {
		edges := map[uint32][]uint64{}
		v.find(*ours, number).edges(edges)
		for _, c := range combine(Call{Number: number, Machine: ours.audit}, edges) {
			want := v.walk(c)
			got, _ := interpret(t, program, c)
			r := observed.FindRefusal(c)
			said := unix.SECCOMP_RET_ALLOW
			switch {
			case r.Asked:
				said = unix.SECCOMP_RET_USER_NOTIF
			case r.Errno != 0:
				said = unix.SECCOMP_RET_ERRNO | int(r.Errno)
			}
			switch {
			case got == unix.SECCOMP_RET_USER_NOTIF:
				handed++
				if uint32(said) != want {
					t.Fatalf("%s: %+v: the supervisor is told %#x of what the filter answers with %#x", name, c, said, want)
				}
			case got != want:
				t.Fatalf("%s: %+v: %#x, not %#x", name, c, got, want)
			case slices.Contains(tellable, got), observed.isTold(r.Call):
				t.Fatalf("%s: %+v: nobody hears of it", name, c)
			}
		}
	}
	if handed == 0 {
		t.Errorf("%s: nothing is handed over", name)
	}
}

// Each refusal names the line that opens it.
func TestRefusalsNameTheirKey(t *testing.T) {
	for _, test := range []struct {
		s    spec.Sandbox
		c    Call
		want spec.Refusal
	}{
		{spec.Sandbox{Seal: true}, Call{Number: unix.SYS_MOUNT}, spec.Refusal{Call: "mount", Errno: unix.EPERM, Key: `syscalls = "any"`}},
		{spec.Sandbox{Seal: true}, Call{Number: unix.SYS_CHROOT}, spec.Refusal{Call: "chroot", Errno: unix.EPERM, Key: `capabilities = ["CAP_SYS_CHROOT"]`}},
		{spec.Sandbox{Seal: true}, Call{Number: unix.SYS_SOCKET, Args: [6]uint64{unix.AF_INET, unix.SOCK_RAW}}, spec.Refusal{Call: "socket", Errno: unix.EPERM, Key: `capabilities = ["CAP_NET_RAW"]`}},
		{spec.Sandbox{Seal: true}, Call{Number: unix.SYS_SOCKET, Args: [6]uint64{unix.AF_PACKET}}, spec.Refusal{Call: "socket", Errno: unix.EAFNOSUPPORT, Key: `syscalls = "any"`}},
		{spec.Sandbox{Seal: true}, Call{Number: unix.SYS_SETSOCKOPT, Args: [6]uint64{0, unix.SOL_SOCKET, unix.SO_MARK}}, spec.Refusal{Call: "setsockopt", Errno: unix.ENOPROTOOPT, Key: `seal = "off"`}},
		{spec.Sandbox{Seal: true}, Call{Number: unix.SYS_CONNECT}, spec.Refusal{Call: "connect", Errno: unix.EPERM, Key: `connect = "any"`}},
		{spec.Sandbox{}, Call{Number: unix.SYS_CONNECT}, spec.Refusal{Call: "connect", Errno: unix.EPERM, Key: `connect = "any"`}},
		{spec.Sandbox{Seal: true, Connect: "unix"}, Call{Number: unix.SYS_CONNECT}, spec.Refusal{Call: "connect", Asked: true}},
		{spec.Sandbox{Seal: true}, Call{Number: unix.SYS_BIND}, spec.Refusal{Call: "bind"}},
		{spec.Sandbox{Seal: true}, Call{Number: unix.SYS_CLONE3}, spec.Refusal{Call: "clone3", Errno: unix.ENOSYS, Key: `syscalls = "any"`}},
		{spec.Sandbox{Seal: true}, Call{Number: unix.SYS_IO_URING_SETUP}, spec.Refusal{Call: "io_uring_setup", Errno: unix.ENOSYS}},
	} {
		test.c.Machine = ours.audit
		test.s.Observe = spec.ObservePaths
		if got := NewProfile(test.s, 0, true).FindRefusal(test.c); got != test.want {
			t.Errorf("%+v, %+v: %+v, not %+v", test.s, test.c, got, test.want)
		}
	}
}
