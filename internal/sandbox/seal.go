package sandbox

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Kernel is what the process's own restrictions are made of, as far as a kernel has it.
type Kernel struct {
	Filters  bool // seccomp(2) with filters
	Landlock int  // its ABI, landlock(7); 0: none, or not among the boot's lsm=
}

// RunningKernel is the kernel we run on.
func RunningKernel() Kernel {
	// With no filter to load the kernel gets as far as EFAULT, prctl(2).
	err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, 0, 0, 0)
	return Kernel{Filters: errors.Is(err, unix.EFAULT), Landlock: landlockABI()}
}

// Files reports whether Landlock restricts files for a service that may get hold of what is not
// mounted; writable says whether it may write some of the host's.
func (k Kernel) Files(writable bool) bool {
	return k.Landlock >= abiFiles || k.Landlock > 0 && !writable
}

// TCP reports whether Landlock can refuse to bind and to connect TCP.
func (k Kernel) TCP() bool { return k.Landlock >= abiTCP }

// Scopes reports whether Landlock can end abstract unix names where the sandbox does.
func (k Kernel) Scopes() bool { return k.Landlock >= abiScopes }

// WithoutFiles says why Landlock keeps no files here.
func (k Kernel) WithoutFiles() string {
	return "no Landlock for files: " + landlockMissing(k.Landlock, abiFiles)
}

// Truncation reports whether Landlock keeps files from being cut off.
func (k Kernel) Truncation() bool { return k.Landlock >= abiTruncate }

// WithoutTruncation says why Landlock does not.
func (k Kernel) WithoutTruncation() string {
	return "no Landlock for truncation: " + landlockMissing(k.Landlock, abiTruncate)
}

// WithoutScope says why Landlock keeps no abstract names here.
func (k Kernel) WithoutScope() string {
	if k.Scopes() {
		return "the scope of these would keep a relay's clients from being answered"
	}
	return "no scope: " + landlockMissing(k.Landlock, abiScopes)
}

// SealLacks says what of the process's side of the seal this kernel has not, and
// what that leaves open, a sentence each; nil: nothing.
//
// Landlock is not among it. Its rules for TCP are the second restriction: without
// them the filter alone refuses connect and fast open, and bind is a supervisor's (Sandbox.Alone). Its
// scope of abstract names matters only to a unix datagram socket, which without it is
// relayed or only receives.
func (k Kernel) SealLacks() []string {
	if k.Filters {
		return nil
	}
	return []string{"this kernel has no seccomp filters (CONFIG_SECCOMP_FILTER): the service could dissolve a socket that it inherits, and connect it from the host's network"}
}

// landlockLevels is what each ABI that we use brought, and what goes without it.
var landlockLevels = [...]struct {
	abi                     int
	linux, brought, without string
}{
	{abiFiles, "5.19", "files", "a folder that a client passes in is open to a service that has something writable (to every one where Landlock is off)"},
	{abiTruncate, "6.2", "truncation", "the files in a folder that a client passes in can be cut off"},
	{abiTCP, "6.7", "TCP", "connect and bind(2) of a unix path take a service some 0.3 ms"},
	{5, "6.10", "device ioctls", ""},
	{abiScopes, "6.12", "abstract unix names and signals", "unixgram:// with pass_credentials, pass_security or pass_rights only receives"},
}

// landlockMissing says which version is wanted and which there is.
func landlockMissing(have, want int) string {
	for _, level := range landlockLevels {
		if level.abi == want && have > 0 {
			return fmt.Sprintf("ABI %d, Linux %s; here it is ABI %d", want, level.linux, have)
		}
	}
	return fmt.Sprintf("ABI %d; here it is off", want)
}
