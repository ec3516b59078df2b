package output

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Sink is the one log: everything goes through a queue to one goroutine that
// writes, so that nothing waits for the reader of stderr. The activator's own lines
// never wait: what is too much is dropped, counted, and the count is logged. A
// service's output waits in the service's own pipe, and is dropped only when the
// service ends while the reader stalls.
type Sink struct {
	queue
	format string
	log    *slog.Logger
	events account

	inheriting sync.Mutex
	stdout     *Target // nil: no service has inherited it yet, or it is the log's file too

	opened  sync.Mutex
	targets map[*Target]bool // that services print to now
}

// NewSink returns a log that writes to f, as "json" or else as text, events
// from level upwards. It borrows f until Close.
func NewSink(f *os.File, format string, level slog.Level) *Sink {
	s := &Sink{format: format}
	s.init(f)
	s.count = func(b []byte) int { return bytes.Count(b, []byte("\n")) }
	s.tell = s.noteDropped
	s.log = slog.New(s.newHandler(eventWriter{s}, level))
	return s
}

// Logger returns the log for the activator's own lines. It never blocks.
func (s *Sink) Logger() *slog.Logger { return s.log }

// Close writes what is queued, for at most two seconds, and ends the log: later
// lines are dropped. With a reader that stalls, the goroutine that writes to it
// stays behind: nothing can interrupt a blocking write(2).
func (s *Sink) Close() error {
	s.inheriting.Lock()
	stdout := s.stdout
	s.inheriting.Unlock()
	if stdout != nil && !stdout.flush(flushTimeout) {
		s.log.Warn("output not written: its reader stalls", "to", stdout.file.Name())
	}
	if !s.flush(flushTimeout) {
		return s.unwritten()
	}
	return nil
}

// newHandler formats records and gives each to w in one Write.
func (s *Sink) newHandler(w io.Writer, level slog.Level) slog.Handler {
	options := &slog.HandlerOptions{Level: level}
	if s.format == "json" {
		return slog.NewJSONHandler(printable{w}, options)
	}
	return slog.NewTextHandler(printable{w}, options)
}

// eventWriter queues the activator's own lines.
type eventWriter struct{ sink *Sink }

func (w eventWriter) Write(line []byte) (int, error) {
	s := w.sink
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pushLine(line, &s.events, eventShare)
	return len(line), nil
}

// noteDropped queues the line about dropped lines, if there is room for it.
func (s *Sink) noteDropped(bool) (left int) {
	if s.events.bytes >= eventShare {
		return s.dropped
	}
	var b bytes.Buffer
	r := slog.NewRecord(time.Now(), slog.LevelWarn, "log lines dropped: the reader of the log is too slow", 0)
	r.AddAttrs(slog.Int("lines", s.dropped))
	_ = s.newHandler(&b, slog.LevelWarn).Handle(context.Background(), r) // a Buffer takes everything
	s.appendLine(b.Bytes(), &s.events)
	return 0
}
