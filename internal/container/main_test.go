package container

import (
	"os"
	"testing"

	"activator/internal/ktest"
)

func TestMain(m *testing.M) {
	if IsStage() {
		Stage()
	}
	// A launcher that is built for the race detector else sleeps a second at exit.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	ktest.Main(m)
}
