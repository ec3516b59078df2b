package container

import (
	"os"
	"testing"

	"activator/internal/ktest"
	"activator/internal/process"
)

func TestMain(m *testing.M) {
	if process.IsHelper() {
		process.RunHelper()
	}
	// A reaper that is built for the race detector else sleeps a second at exit.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	ktest.Main(m)
}
