package main

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestGate: a machine without the 32-bit gate is told from one whose kernel refuses
// the call, and the probe lives on.
func TestGate(t *testing.T) {
	for range 2 { // the first fault leaves everything as it was
		if err := tryGate(int81); err != errNoGate {
			t.Errorf("a gate that no kernel has: %v", err)
		}
	}
	const getpid = 20 // of i386
	var pid int32
	if err := tryGate(func() { pid = int80(getpid, 0, 0, 0) }); err == nil && int(pid) != unix.Getpid() && unix.Errno(-pid) != unix.ENOSYS {
		t.Errorf("the gate is there, and getpid says %d", pid)
	} else {
		t.Logf("getpid: %d, %v", pid, err)
	}
}
