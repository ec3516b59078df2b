package container

import (
	"testing"

	"activator/internal/ktest"
)

func TestMain(m *testing.M) {
	if IsStage() {
		Stage()
	}
	ktest.Main(m)
}
