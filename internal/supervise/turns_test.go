package supervise

import "testing"

func TestTurns(t *testing.T) {
	come := func(o *turn) bool {
		select {
		case <-o.called():
			return true
		default:
			return false
		}
	}
	turns := NewTurns(2, 3)
	var all []*turn
	for range 6 {
		all = append(all, turns.queueUp())
	}
	expect := func(when string, want ...int) {
		t.Helper()
		var got []int
		for i, o := range all {
			if come(o) {
				got = append(got, i)
			}
		}
		if len(got) != len(want) || len(got) > 0 && got[0] != want[0] || len(got) > 1 && got[1] != want[1] {
			t.Errorf("%s: the turns of %v, want %v", when, got, want)
		}
	}
	expect("before it is open")
	turns.Open()
	expect("open: two at once, in order", 0, 1)
	all[0].stand()
	expect("one stands", 2)
	all[1].stand()
	expect("two stand and one is built: no room")
	all[2].end()
	expect("one was given up", 3)
	all[4].end() // while it waits
	client := turns.hurry()
	all[0].end()
	all[0].end()
	all[3].stand()
	expect("a client waits for a start")
	client.end()
	expect("and has got it", 5)
	for _, o := range all {
		o.end()
	}
	if turns.building != 0 || turns.standing != 0 || turns.urgent != 0 {
		t.Errorf("left: %+v", turns)
	}
	(*turn)(nil).end()
	if come(nil) {
		t.Error("nobody's turn has come")
	}
}
