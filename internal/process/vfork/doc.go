// Package vfork starts a child process that is a list of system calls.
//
// A program that builds a sandbox has to be loaded, its runtime comes up, and it takes
// a millisecond for what the kernel does in a tenth. The work itself is a straight line
// of calls whose arguments are all known before. So they are written down, and a child
// that shares our memory (CLONE_VM, clone(2)) makes one after the other until one of them
// is execve(2). It has no stack, no heap and no runtime; as long as it waits, it costs no
// memory but the kernel's.
//
// Descriptors that the calls open have the lowest numbers that are free,
// open(2), and so they are known before, too.
package vfork
