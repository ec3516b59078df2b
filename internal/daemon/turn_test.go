package daemon

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"activator/internal/ktest"
	"activator/internal/process"
)

func TestMain(m *testing.M) {
	if process.IsHelper() {
		process.RunHelper()
	}
	ktest.Main(m)
}

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
				var members []*member
				for range test.members {
					m := &member{done: make(chan struct{})}
					m.stop = func() {
						mu.Lock()
						defer mu.Unlock()
						told, leaving, last = told+1, leaving+1, time.Since(begin)
						most = max(most, leaving)
						time.AfterFunc(test.takes, func() {
							mu.Lock()
							defer mu.Unlock()
							leaving--
							close(m.done)
						})
					}
					members = append(members, m)
				}
				endStaggered(members)
				for _, m := range members {
					<-m.done
				}
				if told != test.members || most > test.together || last != test.all {
					t.Errorf("%d told, %d together, the last after %v", told, most, last)
				}
			})
		})
	}
}
