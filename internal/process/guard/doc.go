// Package guard has a second process kill what is left of ours when we have been killed ourselves.
// [Start] starts it, [Guard.AddProcess] puts a process under it; a binary whose [IsGuard] says yes
// becomes it by [Stand].
//
// It does not start processes, and kills none while we live; package process does.
package guard
