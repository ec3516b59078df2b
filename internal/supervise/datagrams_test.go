package supervise

import (
	"testing"
	"time"

	"activator/internal/relay"
)

// What no program has read is for the next one, once, and only for as long as a client
// may wait.
func TestUntold(t *testing.T) {
	var u untold
	if taken := u.take(0, time.Minute); taken != nil {
		t.Errorf("nothing was put, and %d are there", len(taken))
	}
	u.put(1, nil)
	if _, any := u.first(); any {
		t.Error("nothing calls for a program")
	}
	for _, tt := range []struct {
		hold time.Duration
		want int
	}{{time.Minute, 2}, {0, 2}, {time.Nanosecond, 0}} {
		u.put(1, make([]relay.Taken, 2))
		if n, any := u.first(); n != 1 || !any {
			t.Errorf("socket %d calls, %v", n, any)
		}
		time.Sleep(time.Microsecond)
		if taken := u.take(1, tt.hold); len(taken) != tt.want {
			t.Errorf("hold %v: %d are there, want %d", tt.hold, len(taken), tt.want)
		}
		if _, any := u.first(); any {
			t.Error("they are there a second time")
		}
	}
}
