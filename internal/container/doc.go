// Package container turns a [container] table into the command line of a
// container engine (Podman), so that the same sockets reach a container instead
// of our own sandbox.
package container
