// Package reaper stays above a program, as pid 1 of its sandbox (init = true) or as the subreaper
// of processes without one: [New] makes this process a reaper, [Reaper.Keep] waits for everything
// that ends, until the program does.
//
// It starts nothing, and knows no activator but an end of file; package process does both.
package reaper
