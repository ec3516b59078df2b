package daemon

import (
	"context"
	"errors"
	"testing"

	"activator/internal/config"
)

// The end does not wait for a configuration that is still being read.
func TestEndWhileReading(t *testing.T) {
	ctx, end := context.WithCancel(context.Background())
	answer, left := make(chan error), make(chan struct{})
	wanted := errors.New("read")
	load := func([]string, config.Env) ([]config.Source, error) {
		defer close(left)
		end()
		return nil, <-answer
	}
	if _, err := loadConfig(ctx, load, nil); err != errEnded {
		t.Errorf("%v, want %v", err, errEnded)
	}
	answer <- wanted
	<-left

	load = func(paths []string, _ config.Env) ([]config.Source, error) {
		return make([]config.Source, len(paths)), wanted
	}
	if sources, err := loadConfig(context.Background(), load, []string{"a", "b"}); len(sources) != 2 || err != wanted {
		t.Errorf("%v, %v", sources, err)
	}
}
