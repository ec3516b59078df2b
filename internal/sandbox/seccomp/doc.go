// Package seccomp turns a [Profile], what a service or a container engine may not ask the kernel for,
// into the filter of system calls that seccomp(2) loads. It is pure: it knows both machines,
// and nothing of the kernel that runs.
//
// It loads no filter; package sandbox does, in the child.
package seccomp
