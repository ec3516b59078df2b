package output

import (
	"log/slog"
	"os"
	"time"

	"activator/internal/kernel/fd"
)

// Target is a file that a service's output goes to as it is, byte by byte. The
// service has a pipe of ours, never the file: a file can be read, cut off or
// given other flags by a process that has a descriptor of it.
//
// A target whose reader stalls makes the services wait that print to it, and
// no other service. What is dropped when such a service ends, or because writing fails,
// is counted and logged.
type Target struct {
	*queue
	of   *account
	info os.FileInfo // nil: unknown
	log  *slog.Logger
	said time.Time // of the last line about what was dropped
}

// interruptTimeout is how long a write that was interrupted may take to return: that
// of a regular file does not, and its goroutine stays behind until the file system
// answers.
const interruptTimeout = 100 * time.Millisecond

// noticePause is the time between two lines about what was dropped.
const noticePause = time.Minute

// OpenTarget opens the file that a service prints to. The caller gives it to
// [Sink.CopyBytes], or closes it.
func (s *Sink) OpenTarget(path, service string) (*Target, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	t := s.newTarget(f, s.log.With("service", service))
	t.owned, t.of = true, &account{}
	return t, nil
}

// Inherit returns the target that is our own stdout or stderr.
func (s *Sink) Inherit(own *os.File, service string) *Target {
	if own == s.file || SameFile(own, s.file) {
		return &Target{queue: &s.queue, of: s.accountOf(service)}
	}
	s.inheriting.Lock()
	defer s.inheriting.Unlock()
	if s.stdout == nil {
		s.stdout = s.newTarget(own, s.log)
	}
	return &Target{queue: s.stdout.queue, of: s.stdout.accountOf(service)}
}

func (s *Sink) newTarget(f *os.File, log *slog.Logger) *Target {
	t := &Target{queue: &queue{apart: true, count: func(b []byte) int { return len(b) }}, log: log}
	t.init(f)
	t.tell = t.noteDropped
	t.info, _ = f.Stat()
	return t
}

// SameFile reports whether two open files are one.
func SameFile(a, b *os.File) bool {
	one, err := a.Stat()
	if err != nil {
		return false
	}
	other, err := b.Stat()
	return err == nil && os.SameFile(one, other)
}

// Info is the file as it was opened, nil if it is not the service's alone.
func (t *Target) Info() os.FileInfo { return t.info }

// noteDropped logs what was dropped, now and then.
func (t *Target) noteDropped(last bool) (left int) {
	if now := time.Now(); last || now.Sub(t.said) >= noticePause {
		t.said = now
		t.log.Warn("output dropped: its file or the reader of it does not take it", "to", t.file.Name(), "bytes", t.dropped)
		return 0
	}
	return t.dropped
}

// Close writes what is queued, and closes the file if it is the service's alone. It
// does not wait for a reader that stalls.
func (t *Target) Close() {
	if !t.owned {
		return
	}
	t.mu.Lock()
	stalled := t.stalled
	t.mu.Unlock()
	if stalled || !t.flush(stallTimeout) {
		fd.EndNow(t.file.SetWriteDeadline)
		t.flush(interruptTimeout)
	}
}
