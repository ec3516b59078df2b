package fdstore

import (
	"testing"

	"activator/internal/ktest"
)

func TestMain(m *testing.M) { ktest.Main(m) }
