package usernotif

import (
	"os"
	"testing"

	"activator/internal/ktest"
)

func TestMain(m *testing.M) {
	switch os.Getenv("INTERCEPT_TEST_SERVICE") {
	case "again":
		again()
	case "":
	default:
		service()
	}
	ktest.Main(m)
}
