// Package spawn owns a process from clone to reaped: it starts the second stage
// of the activator's own binary in new namespaces, tells it its plan, lets it
// exec the program, waits for it by pidfd and signals it.
//
// It knows no policy (package sandbox does) and never restarts anything
// (package supervise does).
package spawn
