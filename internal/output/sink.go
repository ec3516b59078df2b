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
	serviceShare = 16 << 10  // bytes of one service that may wait before it does
	batchSize    = 64 << 10  // bytes of one write(2), but for the last line's length
	flushTimeout = 2 * time.Second
	stallTimeout = time.Second // how long one write(2) may take before the reader counts as stalled
)

// Sink is the one log: everything goes through a queue to one goroutine that
// writes, so that nothing waits for the reader of stderr. The queue is first in,
// first out, and bounded for each service and for the activator's own lines.
// These never wait: what is too much is dropped, counted, and the count is
// logged. A service's output waits in the service's own pipe, and is dropped
// only when the service ends while the reader stalls.
type Sink struct {
	file   *os.File
	format string
	log    *slog.Logger
	wake   chan struct{} // capacity 1: the queue is not empty, or closing
	done   chan struct{} // closed by the writer at its end

	mu       sync.Mutex
	room     sync.Cond // some of the queue was written, or the reader stalls, or closing
	queue    []entry
	events   account
	services map[string]*account
	dropped  int  // lines since the last note about it
	writes   int  // that have returned
	stalled  bool // the write(2) under way takes too long
	broken   bool // the last write(2) failed
	closing  bool
}

// entry is one line, formatted.
type entry struct {
	line []byte
	of   *account
}

// account is what a service, or the activator itself, has in the queue.
type account struct{ bytes int }

// NewSink returns a log that writes to f, as "json" or else as text, events
// from level upwards. It borrows f until Close.
func NewSink(f *os.File, format string, level slog.Level) *Sink {
	s := &Sink{
		file:     f,
		format:   format,
		wake:     make(chan struct{}, 1),
		done:     make(chan struct{}),
		services: make(map[string]*account),
	}
	s.room.L = &s.mu
	s.log = slog.New(s.newHandler(eventWriter{s}, level))
	go s.writeQueue()
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
	s.room.Broadcast()
	wakeUp(s.wake)
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

// newHandler formats records and gives each to w in one Write.
func (s *Sink) newHandler(w io.Writer, level slog.Level) slog.Handler {
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
	s.pushLine(line, &s.events, eventShare)
	return len(line), nil
}

// accountOf returns what a service has. All its processes share it, also those to come.
func (s *Sink) accountOf(service string) *account {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.services[service] == nil {
		s.services[service] = &account{}
	}
	return s.services[service]
}

// pushLine queues a copy of line; before it, what was dropped since the last line.
// Where the share of its owner is full it counts the line as dropped. The caller
// holds s.mu.
func (s *Sink) pushLine(line []byte, of *account, share int) {
	if s.closing {
		return
	}
	if of.bytes >= share {
		s.dropped++
		return
	}
	if s.dropped > 0 && s.events.bytes < eventShare {
		s.appendLine(s.noteDropped(), &s.events)
	}
	s.appendLine(bytes.Clone(line), of)
	wakeUp(s.wake)
}

func (s *Sink) appendLine(line []byte, of *account) {
	s.queue = append(s.queue, entry{line, of})
	of.bytes += len(line)
}

// noteDropped formats the line about dropped lines and forgets their number.
func (s *Sink) noteDropped() []byte {
	var b bytes.Buffer
	r := slog.NewRecord(time.Now(), slog.LevelWarn, "log lines dropped: the reader of the log is too slow", 0)
	r.AddAttrs(slog.Int("lines", s.dropped))
	_ = s.newHandler(&b, slog.LevelWarn).Handle(context.Background(), r) // a Buffer takes everything
	s.dropped = 0
	return b.Bytes()
}

// writeQueue is the goroutine that writes. It sleeps while the queue is empty.
func (s *Sink) writeQueue() {
	defer close(s.done)
	var batch []byte
	for {
		var closing bool
		batch, closing = s.takeBatch(batch[:0])
		if len(batch) > 0 {
			write := s.writes // which nothing else changes
			late := time.AfterFunc(stallTimeout, func() { s.noteStall(write) })
			s.noteWritten(batch, writeAll(s.file, batch))
			late.Stop()
			continue
		}
		if closing {
			return
		}
		<-s.wake
	}
}

// noteStall notes that the reader stalls, if a write(2) is still under way.
func (s *Sink) noteStall(write int) {
	s.mu.Lock()
	s.stalled = s.stalled || s.writes == write
	s.mu.Unlock()
	s.room.Broadcast()
}

// takeBatch moves lines from the queue to batch and tells their owners that there is
// room again.
func (s *Sink) takeBatch(batch []byte) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for ; n < len(s.queue) && len(batch) < batchSize; n++ {
		e := s.queue[n]
		batch = append(batch, e.line...)
		s.queue[n] = entry{}
		e.of.bytes -= len(e.line)
	}
	s.queue = s.queue[n:]
	if len(batch) > 0 {
		s.room.Broadcast()
		return batch, s.closing
	}
	s.queue = nil // let a burst's memory go
	if s.dropped > 0 && !s.broken {
		batch = append(batch, s.noteDropped()...)
	}
	return batch, s.closing
}

// noteWritten notes how writing a batch ended. An error could be told only
// through the log itself: its lines count as dropped.
func (s *Sink) noteWritten(batch []byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	s.stalled, s.broken = false, err != nil
	if err != nil {
		s.dropped += bytes.Count(batch, []byte("\n"))
	}
}

// writeAll writes b to f, whatever f is, and whatever process shares its flags. Not
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

// wakeUp leaves word in a channel of capacity 1.
func wakeUp(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
