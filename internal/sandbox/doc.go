// Package sandbox is the policy of a networkless process: which namespaces it
// gets, what its root looks like, what it may do. A [spec.Sandbox] is a plain value; it
// falls into two halves, what the kernel does at clone ([CloneFlags]) and what
// its list of calls does before exec ([Plan.Build], [Plan.Confine]).
//
// It starts no process; package process does.
package sandbox
