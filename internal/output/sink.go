package output

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

const (
	eventShare   = 256 << 10 // bytes of the activator's own lines that may wait
	pumpShare    = 16 << 10  // bytes of one stream that may wait before its service does
	orphanShare  = 1 << 20   // bytes that may wait of all streams that have ended
	batchSize    = 64 << 10  // bytes of one write(2), but for the last line's length
	flushTimeout = 2 * time.Second
	// patience is how long one write(2) may take before the reader counts as
	// stalled, and what is left of a service that ended is dropped.
	patience = time.Second
)

// Sink is the one log: everything goes through a queue to one goroutine that
// writes, so that nobody waits for the reader of stderr. The queue is first in,
// first out, and everybody has a share of it: the activator's own lines never
// wait (what is over the share is dropped, counted, and the count is logged), a
// service's output waits in the service's own pipe.
type Sink struct {
	file   *os.File
	format string
	log    *slog.Logger
	wake   chan struct{} // capacity 1: the queue is not empty, or closing
	done   chan struct{} // closed by the writer at its end

	mu       sync.Mutex
	queue    []entry
	events   account
	orphaned int       // bytes of accounts that have ended
	dropped  int       // lines since the last note about it
	writing  time.Time // when the write(2) under way began; zero: none is
	broken   bool      // the last write(2) failed
	closing  bool
}

// entry is one line, formatted.
type entry struct {
	line []byte
	of   *account
}

// account is what one writer of lines has in the queue.
type account struct {
	bytes int
	ended bool          // its bytes count as orphaned
	room  chan struct{} // capacity 1, tells that bytes went down; nil: nobody waits
}

// NewSink returns a log that writes to f, as "json" or else as text, events
// from level upwards. It borrows f until Close.
func NewSink(f *os.File, format string, level slog.Level) *Sink {
	s := &Sink{
		file:   f,
		format: format,
		wake:   make(chan struct{}, 1),
		done:   make(chan struct{}),
	}
	s.log = slog.New(s.handler(eventWriter{s}, level))
	go s.write()
	return s
}

// Logger returns the log for the activator's own lines. It never blocks.
func (s *Sink) Logger() *slog.Logger { return s.log }

// Close writes what is queued, for at most two seconds, and ends the log: later
// lines are dropped. With a reader that stalls, the goroutine that writes to it
// stays behind: nothing can interrupt a blocking write(2).
func (s *Sink) Close() error {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	signal(s.wake)
	late := time.NewTimer(flushTimeout)
	defer late.Stop()
	select {
	case <-s.done:
		return nil
	case <-late.C:
		s.mu.Lock()
		defer s.mu.Unlock()
		return fmt.Errorf("log: %d lines not written: the reader of %s stalls", len(s.queue)+s.dropped, s.file.Name())
	}
}

// handler formats records and gives each to w in one Write.
func (s *Sink) handler(w io.Writer, level slog.Level) slog.Handler {
	options := &slog.HandlerOptions{Level: level}
	if s.format == "json" {
		return slog.NewJSONHandler(w, options)
	}
	return slog.NewTextHandler(w, options)
}

// eventWriter queues the activator's own lines.
type eventWriter struct{ sink *Sink }

func (w eventWriter) Write(line []byte) (int, error) {
	s := w.sink
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return len(line), nil
	}
	if s.events.bytes >= eventShare {
		s.dropped++
		return len(line), nil
	}
	s.push(line, &s.events)
	return len(line), nil
}

// push queues a copy of line; before it, what was dropped since the last line.
// The caller holds s.mu.
func (s *Sink) push(line []byte, of *account) {
	if s.dropped > 0 && s.events.bytes < eventShare {
		s.append(s.note(), &s.events)
	}
	s.append(bytes.Clone(line), of)
	signal(s.wake)
}

func (s *Sink) append(line []byte, of *account) {
	s.queue = append(s.queue, entry{line, of})
	of.bytes += len(line)
}

// note formats the line about dropped lines and forgets their number.
func (s *Sink) note() []byte {
	var b bytes.Buffer
	r := slog.NewRecord(time.Now(), slog.LevelWarn, "log lines dropped: the reader of the log is too slow", 0)
	r.AddAttrs(slog.Int("lines", s.dropped))
	_ = s.handler(&b, slog.LevelWarn).Handle(context.Background(), r) // a Buffer takes everything
	s.dropped = 0
	return b.Bytes()
}

// write is the goroutine that writes. It sleeps while the queue is empty.
func (s *Sink) write() {
	defer close(s.done)
	var batch []byte
	for {
		var closing bool
		batch, closing = s.take(batch[:0])
		if len(batch) > 0 {
			s.wrote(batch, writeAll(s.file, batch))
			continue
		}
		if closing {
			return
		}
		<-s.wake
	}
}

// take moves lines from the queue to batch and tells their owners that there is
// room again. The write that must follow counts as begun.
func (s *Sink) take(batch []byte) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for ; n < len(s.queue) && len(batch) < batchSize; n++ {
		e := s.queue[n]
		batch = append(batch, e.line...)
		s.queue[n] = entry{}
		s.release(e)
	}
	s.queue = s.queue[n:]
	if len(batch) > 0 {
		s.writing = time.Now()
		return batch, s.closing
	}
	s.queue = nil // let a burst's memory go
	if s.dropped > 0 && !s.broken {
		batch = append(batch, s.note()...)
	}
	return batch, s.closing
}

// wrote notes how writing a batch ended. Nobody could be told of an error but
// through the log itself: its lines count as dropped.
func (s *Sink) wrote(batch []byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing = time.Time{}
	s.broken = err != nil
	if err != nil {
		s.dropped += bytes.Count(batch, []byte("\n"))
	}
}

func (s *Sink) release(e entry) {
	if e.of.ended {
		s.orphaned -= len(e.line)
		return
	}
	e.of.bytes -= len(e.line)
	if e.of.room != nil && e.of.bytes < pumpShare {
		signal(e.of.room)
	}
}

// end makes what a has in the queue an orphan, or drops it where there are too
// many of them.
func (s *Sink) end(a *account) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.ended = true
	if s.orphaned+a.bytes <= orphanShare {
		s.orphaned += a.bytes
		return
	}
	kept := s.queue[:0]
	for _, e := range s.queue {
		if e.of == a {
			s.dropped++
			continue
		}
		kept = append(kept, e)
	}
	clear(s.queue[len(kept):])
	s.queue = kept
}

// drop counts a line that nobody will see.
func (s *Sink) drop() {
	s.mu.Lock()
	s.dropped++
	s.mu.Unlock()
}

// untilStalled returns how long the write under way may still take; not
// positive: the reader stalls.
func (s *Sink) untilStalled() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writing.IsZero() {
		return patience
	}
	return patience - time.Since(s.writing)
}

// writeAll writes b to f, whatever f is and whoever shares its flags. Not
// through (*os.File).Write: that ends the process on EPIPE when f is stderr,
// and an activator outlives the reader of its log.
func writeAll(f *os.File, b []byte) error {
	return fd.Control(f, func(out int) error {
		for len(b) > 0 {
			n, err := unix.Write(out, b)
			switch err {
			case nil:
				b = b[n:]
			case unix.EINTR:
			case unix.EAGAIN:
				if _, err := fd.Poll(out, unix.POLLOUT, -1); err != nil {
					return err
				}
			default:
				return os.NewSyscallError("write", err)
			}
		}
		return nil
	})
}

// signal leaves word in a channel of capacity 1.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
