package notify

import (
	"fmt"
	"os"
	"testing"

	"activator/internal/ktest"
)

// helperVariable makes the test binary a service that sends its value.
const helperVariable = "NOTIFY_HELPER"

func TestMain(m *testing.M) {
	if state, ok := os.LookupEnv(helperVariable); ok {
		if err := SendState(state); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
		os.Exit(0)
	}
	ktest.Main(m)
}
