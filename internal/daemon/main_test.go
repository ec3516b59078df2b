package daemon

import (
	"testing"

	"activator/internal/ktest"
	"activator/internal/process"
)

func TestMain(m *testing.M) {
	if process.IsHelper() {
		process.RunHelper()
	}
	ktest.Main(m)
}
