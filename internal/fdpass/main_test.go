package fdpass

import (
	"os"
	"testing"

	"activator/internal/ktest"
)

// helperVariable makes the test binary one of the processes under test.
const helperVariable = "FDPASS_HELPER"

func TestMain(m *testing.M) {
	switch os.Getenv(helperVariable) {
	case "stage":
		stage()
	case "program":
		program()
	default:
		ktest.Main(m)
	}
}
