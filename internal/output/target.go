package output

import (
	"log/slog"
	"maps"
	"os"
	"slices"
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
	sink *Sink       // that knows of it; nil: none
	path string      // of a file that is opened again
	info os.FileInfo // nil: unknown; under sink.opened
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
	t.sink, t.path = s, path
	s.opened.Lock()
	defer s.opened.Unlock()
	if s.targets == nil {
		s.targets = make(map[*Target]bool)
	}
	s.targets[t] = true
	return t, nil
}

// Reopen opens the files of services again that have been moved, as a program does that rotates logs.
// What cannot be opened goes on as it is, and is logged.
func (s *Sink) Reopen() {
	s.opened.Lock()
	targets := slices.Collect(maps.Keys(s.targets))
	s.opened.Unlock()
	for _, t := range targets {
		if err := t.reopen(); err != nil {
			t.log.Warn("output goes on to the file that was moved", "to", t.path, "err", err)
		}
	}
}

func (t *Target) reopen() error {
	f, err := openFile(t.path) // which may take its time
	if err != nil {
		return err
	}
	info, err := f.Stat()
	t.sink.opened.Lock()
	defer t.sink.opened.Unlock()
	if err != nil || !t.sink.targets[t] || t.info != nil && os.SameFile(info, t.info) {
		_ = f.Close()
		return err
	}
	t.info = info
	t.follow(f)
	return nil
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
func (t *Target) Info() os.FileInfo {
	if t.sink != nil {
		t.sink.opened.Lock()
		defer t.sink.opened.Unlock()
	}
	return t.info
}

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
	t.sink.opened.Lock()
	delete(t.sink.targets, t) // and so it is not opened again
	t.sink.opened.Unlock()
	t.mu.Lock()
	stalled := t.stalled
	t.mu.Unlock()
	if stalled || !t.flush(stallTimeout) {
		t.mu.Lock()
		file := t.file
		t.mu.Unlock()
		fd.EndNow(file.SetWriteDeadline)
		t.flush(interruptTimeout)
	}
}
