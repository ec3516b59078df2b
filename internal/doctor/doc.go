// Package doctor tells what this kernel and this user can do, what depends on
// each ability, and how to get it.
package doctor
