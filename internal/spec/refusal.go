package spec

import "syscall"

// Refusal is what the filter of a service says of a system call.
type Refusal struct {
	Call  string        // its name
	Errno syscall.Errno // 0: it is not refused
	Key   string        // the line of [sandbox] that opens it; "": no single one does
	Asked bool          // a supervisor answers it
}
