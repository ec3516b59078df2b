package intercept

import (
	"os"
	"testing"

	"activator/internal/ktest"
)

func TestMain(m *testing.M) {
	if os.Getenv("INTERCEPT_TEST_SERVICE") != "" {
		service()
	}
	ktest.Main(m)
}
