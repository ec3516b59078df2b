package seal

import (
	"context"
	"errors"
	"testing"
	"time"
)

// A relay goes on after an error, each time, and ends when it is told to, also while it rests.
func TestKeepRunning(t *testing.T) {
	defer func(before time.Duration) { holdUp = before }(holdUp)
	refused := errors.New("refused")
	for name, rest := range map[string]time.Duration{"at work": 0, "at rest": time.Hour} {
		t.Run(name, func(t *testing.T) {
			holdUp = rest
			ctx, stop := context.WithCancel(t.Context())
			ran, told := 0, 0
			keepRunning(ctx, func(ctx context.Context) error {
				if ran++; ran == 3 || rest > 0 {
					defer stop()
				}
				return refused
			}, func(err error) {
				if told++; err != refused {
					t.Error(err)
				}
			})
			if want := map[bool]int{true: 1, false: 3}[rest > 0]; ran != want || told != want-1 {
				t.Errorf("it ran %d times, and %d errors were told", ran, told)
			}
		})
	}
	ran := 0
	keepRunning(t.Context(), func(context.Context) error { ran++; return nil }, nil)
	if ran != 1 {
		t.Errorf("after an end without an error it ran %d times", ran)
	}
}
