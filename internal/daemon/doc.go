// Package daemon is the set of services of one activator: it opens their
// sockets, runs them, reloads them and shuts them down. It owns the thread that
// starts children.
package daemon
