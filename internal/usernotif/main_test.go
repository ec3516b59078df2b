package usernotif

import (
	"os"
	"runtime"
	"testing"

	"activator/internal/ktest"
)

func TestMain(m *testing.M) {
	switch os.Getenv("INTERCEPT_TEST_SERVICE") {
	case "again":
		again()
	case "copy":
		copyOf()
	case "connects":
		runtime.LockOSThread()
		connects()
	case "":
	default:
		service()
	}
	ktest.Main(m)
}
