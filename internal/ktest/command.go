package ktest

import (
	"io"
	"os"
	"os/exec"
	"testing"
)

// StartReading starts a command, and returns what it prints. One with the race detector ends without its second of sleep. The
// caller waits for its end.
func StartReading(tb testing.TB, command *exec.Cmd) io.Reader {
	tb.Helper()
	command.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	out, err := command.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := command.Start(); err != nil {
		tb.Fatal(err)
	}
	return out
}
