package listen

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"activator/internal/ktest"
	"activator/internal/spec"
)

// waitTimeout bounds every wait for what has to happen. Only a hang exceeds it.
const waitTimeout = 5 * time.Minute

func TestMain(m *testing.M) {
	reopenTimeout = 20 * time.Millisecond // many tests want the error; TestPredecessor waits
	lookInterval = 10 * time.Millisecond
	if os.Getenv(withoutInotify) != "" {
		useUpInotify()
	}
	ktest.Main(m)
}

// TestPredecessor opens what somebody still holds who is on his way out.
func TestPredecessor(t *testing.T) {
	defer func(before time.Duration) { reopenTimeout = before }(reopenTimeout)
	reopenTimeout = time.Minute
	for _, address := range []string{fmt.Sprint("tcp://127.0.0.1:", ktest.Port(t)), fmt.Sprint("udp://127.0.0.1:", ktest.Port(t)), "unix://" + t.TempDir() + "/s"} {
		t.Run(address, func(t *testing.T) {
			before := mustOpen(t, address)
			before.spec.Options.KeepOnStop = true // as one that was killed
			gone := time.AfterFunc(100*time.Millisecond, func() { _ = before.Close() })
			defer gone.Stop()
			mustOpen(t, address)
		})
	}
}

// openOne makes the socket of spec: bound, listening, with all its options. What
// stands at its path is replaced only if it is a socket that no process has.
func openOne(want spec.Socket, means Means) (*Socket, error) {
	sockets, err := OpenAll(context.Background(), []spec.Socket{want}, means)
	if err != nil {
		return nil, err
	}
	return sockets[0], nil
}
