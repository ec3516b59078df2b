package process

import (
	"os"
	"testing"

	"activator/internal/ktest"
)

func TestMain(m *testing.M) {
	if IsHelper() {
		RunHelper()
	}
	if len(os.Args) > 1 && os.Args[1] == "helper" {
		helper(os.Args[2:])
	}
	ktest.Main(m)
}
