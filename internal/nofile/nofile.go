// Package nofile knows the limit on descriptors that this process was started with.
//
// Package syscall raises the soft limit for us before anything of ours runs, and keeps
// to itself what it was, to set it back in children that it starts itself
// (syscall/rlimit.go). Ours start otherwise, and programs that use select(2), or close
// whatever they may have, want what the host's administrator has set.
package nofile

import "unsafe"

// A package that imports nothing is initialized before all that do, in the order of
// their paths (The Go Programming Language Specification, Program initialization), and
// so before package syscall, whose function this is: it needs no initialization.
//
//go:linkname rawSyscall6 syscall.RawSyscall6
//go:noescape
func rawSyscall6(trap, a1, a2, a3, a4, a5, a6 uintptr) (r1, r2, errno uintptr)

const rlimitNofile = 7 // RLIMIT_NOFILE

var started, known = ask()

func ask() (soft uint64, known bool) {
	var limit [2]uint64 // struct rlimit64: the soft one, the hard one
	_, _, errno := rawSyscall6(prlimit64, 0, rlimitNofile, 0, uintptr(unsafe.Pointer(&limit)), 0, 0)
	return limit[0], errno == 0
}

// Started is the soft limit that we were started with.
func Started() (soft uint64, ok bool) { return started, known }
