// Package cgroup makes control groups of version 2, below the one that we are in: cgroups(7).
//
//	groups, err := cgroup.Mount("activator-sockets-")
//	group, err := groups.Make() // with a child in it sockets are made
//	group.Close()
//
// A [Tree] divides our own group, so that each service has one with limits.
package cgroup
