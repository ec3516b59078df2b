// Package process owns a process from clone to reaped: it starts a child
// in new namespaces that is a list of system calls (package vfork), up to execve of the
// program, waits for it by pidfd and signals it.
//
// It knows no policy (package sandbox does) and never restarts anything
// (package service does).
package process
