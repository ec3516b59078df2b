package spec

import "syscall"

// Refusal is what the filter of a service says of a system call.
type Refusal struct {
	Call  string        // its name
	Errno syscall.Errno // 0: it is not refused
	Key   string        // the line of [sandbox] that opens it; "": no single one does
	Asked bool          // a supervisor answers it
}

// Observation is how much of what a program does its supervisor is told.
type Observation uint8

const (
	Unobserved      Observation = iota
	ObserveRefusals             // what the filter refuses, bind, and which other user or group it wants to be
	ObservePaths                // that, and every path and id that the program names: each costs it a hundred times as much
)

// Finding is something that an observed program lacks, or does in vain.
type Finding struct {
	Text  string        // for the log, behind "program "; "": nothing is to be said yet
	Line  string        // opens what was refused; "": none does
	Bound Address       // it binds this itself, where no client comes
	For   Address       // with handover "bind", the target for which Bound is taken; zero: none
	Path  string        // absolute, as it sees it: it does not get at that; "": it is about no path
	Want  Access        // what for
	Errno syscall.Errno // why it does not; 0: it makes it
	ID    string        // "user 33", "group 33": it wants to be that, or to give files to it, and it is not mapped
}

// Lines of a finding that are no answer to a refusal.
const (
	SyslogLine = "syslog = true" // of [service]
	InitLine   = "init = true"   // of [sandbox]
)

// Access is what a program wants of a path, in bits; 0: to look whether it is there.
type Access uint8

const (
	Read Access = 1 << iota
	Write
	Make // it need not be there
)
