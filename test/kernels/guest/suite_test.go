package main

import (
	"slices"
	"testing"

	"activator/internal/ktest"
)

func TestMain(m *testing.M) { ktest.Main(m) }

// What is run once more is what failed, not what failed since a part of it has.
func TestFailedLeaves(t *testing.T) {
	leaves := failedLeaves([]string{"test/escape: TestSandbox", "test/escape: TestSandbox/probe", "test/escape: TestSandbox/probe/tcp-ulp",
		"test/escape: TestSandboxServes/tcp4 bulk", "GOT OUT: somewhere", "test/escape: exit status 1"})
	if want := []string{"TestSandbox/probe/tcp-ulp", "TestSandboxServes/tcp4 bulk"}; !slices.Equal(leaves, want) {
		t.Errorf("%q, want %q", leaves, want)
	}
	if got, want := patternOf(leaves), "^(TestSandbox|TestSandboxServes)$/^(probe|tcp4 bulk)$/^(tcp-ulp)$"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
