package spec

import "testing"

// What a service may have where nothing is said leaves something for others, however little there is, and is never nothing.
func TestLimitsLeaveSomething(t *testing.T) {
	for _, most := range []uint64{2, 100, 1024, 2048, 4096, 20000, 1 << 20, Unlimited} {
		l := LimitDescriptors(most)
		if l.Soft > l.Hard || l.Soft > SoftDescriptors || l.Hard == 0 || l.Hard >= most || most > 1000 && most-l.Hard < 2*253 {
			t.Errorf("of %d descriptors: %+v", most, l)
		}
		if l = LimitProcesses(most); l.Soft != l.Hard || l.Hard == 0 || l.Hard > most/2 {
			t.Errorf("of %d processes: %+v", most, l)
		}
	}
	for most, hard := range map[uint64]uint64{500: 250, 1024: 512, 4000: 2976, 20000: 17500, 1 << 20: 7 << 17} {
		if got := LimitDescriptors(most).Hard; got != hard {
			t.Errorf("of %d descriptors %d, want %d", most, got, hard)
		}
	}
}
