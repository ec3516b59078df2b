package service

import "testing"

func TestStartSlots(t *testing.T) {
	given := func(o *StartSlot) bool {
		select {
		case <-o.Given():
			return true
		default:
			return false
		}
	}
	slots := NewStartSlots(2, 3)
	var all []*StartSlot
	for range 6 {
		all = append(all, slots.Queue())
	}
	expect := func(when string, want ...int) {
		t.Helper()
		var got []int
		for i, o := range all {
			if given(o) {
				got = append(got, i)
			}
		}
		if len(got) != len(want) || len(got) > 0 && got[0] != want[0] || len(got) > 1 && got[1] != want[1] {
			t.Errorf("%s: slots for %v, want %v", when, got, want)
		}
	}
	expect("before it is open")
	slots.Open()
	expect("open: two at once, in order", 0, 1)
	all[0].Stand()
	expect("one stands", 2)
	all[1].Stand()
	expect("two stand and one is built: no room")
	all[2].End()
	expect("one was given up", 3)
	all[4].End() // while it waits
	client := slots.StartNow()
	all[0].End()
	all[0].End()
	all[3].Stand()
	expect("a client waits for a start")
	client.End()
	expect("and has got it", 5)
	for _, o := range all {
		o.End()
	}
	if slots.building != 0 || slots.standing != 0 || slots.urgent != 0 {
		t.Errorf("left: %+v", slots)
	}
	(*StartSlot)(nil).End()
	if given(nil) {
		t.Error("no slot was given")
	}
}
