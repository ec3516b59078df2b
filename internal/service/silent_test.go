package service

import (
	"slices"
	"testing"
	"time"
)

// Each that gives way is of the source that has most connections by then, and has been silent for longest of those.
func TestChooseSilent(t *testing.T) {
	sources := map[string]int{"flood": 4, "pair": 2, "one": 1}
	all := []silence{
		{nil, 65 * time.Second, "pair"}, {nil, 61 * time.Second, "flood"}, {nil, 62 * time.Second, "flood"},
		{nil, time.Hour, "one"}, {nil, 50 * time.Second, "flood"}, {nil, 63 * time.Second, "flood"},
	}
	for n, want := range [][]time.Duration{{}, {63}, {63, 62}, {63, 62, 65}, {63, 62, 65, 61}, {63, 62, 65, 61, 3600}, {63, 62, 65, 61, 3600}} {
		chosen, next := chooseSilent(all, sources, time.Minute, n)
		got := []time.Duration{}
		for _, one := range chosen {
			got = append(got, one.long/time.Second)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%d of them: %d, want %d", n, got, want)
		}
		if left := len(chosen) < 5; next != map[bool]time.Duration{true: 0, false: 10 * time.Second}[left] {
			t.Errorf("%d of them: the next one is due in %v", n, next)
		}
	}
	if sources["flood"] != 4 {
		t.Error("the sources have changed")
	}
}
