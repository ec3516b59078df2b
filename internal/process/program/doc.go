// Package program says why a program cannot be executed: after execve(2) has failed, in the root
// of the process, or before anything is started, in a root that is only planned. It follows a
// program, its interpreters and its libraries as the kernel and the loaders do.
//
// It starts nothing; package process does.
package program
