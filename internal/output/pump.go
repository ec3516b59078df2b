package output

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

const (
	firstBuffer = 512      // bytes; most services print short lines, or none
	maxLine     = 8 << 10  // bytes of a service's line in one line of the log
	pipeSize    = 64 << 10 // bytes that a pipe holds, pipe(7)
)

// Pump copies one stream of one service to the log, a record a line. A line
// over 8 KiB becomes several records, all but the last with continued=true;
// what is not printable is escaped. When the service's queue is full the pump
// stops reading, and in the end the service waits in its write(2): nothing is
// lost and no other service waits.
type Pump struct {
	sink      *Sink
	file      *os.File
	handler   slog.Handler
	service   *account
	finishing bool // guarded by sink.mu: do not wait for a reader that stalls
	rest      int  // bytes still read when the time of Finish is over
	finish    sync.Once
	done      chan struct{} // closed: everything read is in the queue, file is closed
}

// StartPump takes r, the read end of a [OpenPipe], and logs what comes from it until its
// end of file. The caller calls Finish.
func (s *Sink) StartPump(r *os.File, service, stream string, pid int) *Pump {
	p := &Pump{sink: s, file: r, service: s.accountOf(service), rest: pipeSize, done: make(chan struct{})}
	// Whatever level the activator's own log has, a service's output is wanted
	// or else turned off by its name.
	p.handler = s.newHandler(p, slog.LevelDebug).WithAttrs([]slog.Attr{
		slog.String("service", service), slog.String("stream", stream), slog.Int("pid", pid),
	})
	go p.run()
	return p
}

// Finish waits until everything the service printed is in the log's queue. For
// an end of file it waits at most for linger: another process may hold the pipe's
// other end. Nor does it wait for a reader of the log that stalls; what has no
// room then is dropped and counted.
func (p *Pump) Finish(linger time.Duration) {
	p.finish.Do(func() {
		p.sink.mu.Lock()
		p.finishing = true
		p.sink.mu.Unlock()
		p.sink.room.Broadcast()
		late := time.AfterFunc(linger, func() { fd.EndNow(p.file.SetReadDeadline) })
		<-p.done
		late.Stop()
	})
}

func (p *Pump) run() {
	defer close(p.done)
	defer p.file.Close()
	buf, n := make([]byte, firstBuffer), 0
	for {
		m, err := p.file.Read(buf[n:])
		n += m
		used := p.pumpLines(buf[:n])
		if used == 0 && n == maxLine {
			used = wholeRunes(buf[:n])
			p.logRecord(buf[:used], true)
		}
		n = copy(buf, buf[used:n])
		if n == len(buf) && n < maxLine {
			buf = append(buf, make([]byte, len(buf))...)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && p.rest > 0 {
			// The time of Finish is over; what is in the pipe now still counts.
			m, err = p.readNow(buf[n:])
			n += m
			p.rest -= m
		}
		if err != nil {
			if n > 0 {
				p.logRecord(buf[:n], false)
			}
			return
		}
	}
}

// readNow reads what is there, without waiting and without a deadline.
func (p *Pump) readNow(b []byte) (n int, err error) {
	err = fd.Control(p.file, func(pipe int) error {
		return fd.RetryEINTR(func() (err error) {
			n, err = unix.Read(pipe, b)
			return err
		})
	})
	if err == nil && n == 0 {
		err = io.EOF
	}
	return max(n, 0), err
}

// pumpLines logs every whole line in b and returns how many bytes that were.
func (p *Pump) pumpLines(b []byte) int {
	used := 0
	for {
		end := bytes.IndexByte(b[used:], '\n')
		if end < 0 {
			return used
		}
		p.logRecord(b[used:used+end], false)
		used += end + 1
	}
}

// wholeRunes returns where to cut b so that no character is split.
func wholeRunes(b []byte) int {
	for i := len(b) - 1; i > len(b)-utf8.UTFMax; i-- {
		if utf8.RuneStart(b[i]) {
			if !utf8.FullRune(b[i:]) {
				return i
			}
			break
		}
	}
	return len(b)
}

func (p *Pump) logRecord(line []byte, continued bool) {
	r := slog.NewRecord(time.Now(), slog.LevelInfo, string(line), 0)
	if continued {
		r.AddAttrs(slog.Bool("continued", true))
	}
	_ = p.handler.Handle(context.Background(), r) // Write below has no error
}

// Write queues one formatted line as soon as there is room for it.
func (p *Pump) Write(line []byte) (int, error) {
	s := p.sink
	s.mu.Lock()
	defer s.mu.Unlock()
	for p.service.bytes >= serviceShare && !s.closing && !(p.finishing && s.stalled) {
		s.room.Wait()
	}
	s.pushLine(line, p.service, serviceShare)
	return len(line), nil
}

var _ io.Writer = (*Pump)(nil)
