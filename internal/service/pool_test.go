package service

import (
	"testing"
	"time"
)

func TestWanted(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, tt := range []struct {
		name   string
		starts []time.Duration // before now
		warm   bool
		failed bool
		want   int
	}{
		{"nothing ever came", nil, true, false, 1},
		{"nothing ever came, and nothing is kept", nil, false, false, 0},
		{"none can be made", nil, true, true, 0},
		{"none can be made, though they come", []time.Duration{1, 2}, true, true, 0},
		{"long ago", []time.Duration{time.Hour, time.Second}, true, false, 1},
		{"long ago, and nothing is kept", []time.Duration{time.Hour, time.Second}, false, false, 0},
		{"three within a second", []time.Duration{time.Minute, 900 * time.Millisecond, 1, 0}, true, false, 3},
		{"more than are kept", make([]time.Duration, 3*mostReady), false, false, mostReady},
	} {
		p := pool{refused: tt.failed}
		for _, before := range tt.starts {
			p.noteStart(now.Add(-before))
		}
		if got := p.countWanted(tt.warm, now); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestTurnedAwayIsSaidOnceASecond(t *testing.T) {
	var away turnedAway
	now := time.Unix(1000, 0)
	said := 0
	for i := range 5000 { // one each millisecond
		if n, due := away.count(now.Add(time.Duration(i) * time.Millisecond)); due {
			said += n
			if want := max(1, i/1000*1000-(i/1000-1)*1000); i > 0 && n != want {
				t.Errorf("after %d ms: %d clients, want %d", i, n, want)
			}
		}
	}
	if said != 4001 {
		t.Errorf("%d clients were said", said)
	}
}
