package service

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestSlots(t *testing.T) {
	given := func(o *Slot) bool {
		select {
		case <-o.Given():
			return true
		default:
			return false
		}
	}
	slots := NewSlots(2, 3)
	var all []*Slot
	for range 6 {
		all = append(all, slots.QueueBuild())
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
	slots.OpenSlots()
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
	if slots.used != [slotOver + 1]int{slotOver: 7} {
		t.Errorf("left: %+v", slots)
	}
	(*Slot)(nil).End()
	if given(nil) {
		t.Error("no slot was given")
	}
}

// Filters that die at once are bounded: so are the processes that are told to end at once.
func TestEndInTurn(t *testing.T) {
	for _, test := range []struct {
		name     string
		members  int
		takes    time.Duration // each, once it has been told
		together int           // who are on their way out at once, at most
		all      time.Duration // until the last one has been told
	}{
		{"few", 10, time.Second, 10, 0},
		{"as many as may", endAtOnce, time.Second, endAtOnce, 0},
		{"quick", 1000, time.Millisecond, endAtOnce, 15 * time.Millisecond},
		{"slow", 1000, time.Hour, 1000, 15 * endPause},
		{"somewhat slow", 1000, endPause * 3 / 2, 2 * endAtOnce, 15 * endPause},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				var last time.Duration
				var mu sync.Mutex
				told, leaving, most := 0, 0, 0
				slots := NewSlots(1, 1)
				var all sync.WaitGroup
				for range test.members {
					slot := slots.QueueEnd()
					all.Go(func() {
						<-slot.Given()
						mu.Lock()
						told, leaving, last = told+1, leaving+1, time.Since(begin)
						most = max(most, leaving)
						mu.Unlock()
						time.Sleep(test.takes)
						mu.Lock()
						leaving--
						mu.Unlock()
						slot.End()
					})
				}
				all.Wait()
				if slots.used != [slotOver + 1]int{slotOver: test.members} {
					t.Errorf("left: %v", slots.used)
				}
				if told != test.members || most > test.together || last != test.all {
					t.Errorf("%d told, %d together, the last after %v", told, most, last)
				}
			})
		})
	}
}
