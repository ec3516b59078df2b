// Package output is what goes to stderr: the activator's own log lines and what
// services print. A service that floods its output slows down no other, and
// a reader of stderr that stalls never stops a state change.
package output
