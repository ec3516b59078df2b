package output

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
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

// Pump copies one stream of one service to the log, a record a line, or to a
// [Target] as it is. In the log a line over 8 KiB becomes several records, all but
// the last with continued=true; what is not printable is escaped. When the service's
// queue is full the pump stops reading, and in the end the service waits in its
// write(2): nothing is lost and no other service waits.
type Pump struct {
	queue     *queue
	file      *os.File
	handler   slog.Handler // nil: the bytes go as they are
	target    *Target      // nil: the log
	service   *account
	finishing bool   // guarded by queue.mu: do not wait for a reader that stalls
	endless   bool   // the file has no end
	rest      int    // bytes still read when the time of Finish is over
	last      []byte // the last lines, of the goroutine
	finish    sync.Once
	done      chan struct{} // closed: everything read is in the queue, file is closed
}

// StartPump takes r, the read end of a [OpenPipe], and logs what comes from it until its
// end of file. The caller calls Finish.
func (s *Sink) StartPump(r *os.File, service, stream string, pid int) *Pump {
	p := s.newPump(r, service, stream, pid)
	go p.run()
	return p
}

func (s *Sink) newPump(r *os.File, service, stream string, pid int) *Pump {
	p := &Pump{queue: &s.queue, file: r, service: s.accountOf(service), rest: pipeSize, done: make(chan struct{})}
	// Whatever level the activator's own log has, a service's output is wanted
	// or else turned off by its name.
	p.handler = s.newHandler(p, slog.LevelDebug).WithAttrs([]slog.Attr{
		slog.String("service", service), slog.String("stream", stream), slog.Int("pid", pid),
	})
	return p
}

// CopyBytes takes r, the read end of a [OpenPipe], and a target, and writes to it what
// comes until the end of file. The caller calls Finish.
func CopyBytes(r *os.File, to *Target) *Pump {
	p := &Pump{queue: to.queue, file: r, target: to, service: to.of, rest: pipeSize, done: make(chan struct{})}
	go p.run()
	return p
}

// Finish waits until everything the service printed is in the log's queue, or is
// written where the target is the service's alone. For an end of file it waits at
// most for linger: another process may hold the pipe's other end. Nor does it wait
// for a reader that stalls; what has no room then is dropped and counted.
func (p *Pump) Finish(linger time.Duration) {
	p.finish.Do(func() {
		p.queue.mu.Lock()
		p.finishing = true
		p.queue.mu.Unlock()
		p.queue.room.Broadcast()
		if p.endless {
			linger = 0
		}
		late := time.AfterFunc(linger, func() { fd.EndNow(p.file.SetReadDeadline) })
		<-p.done
		late.Stop()
		if p.target != nil {
			p.target.Close()
		}
	})
}

// LastLine returns the last line that is not empty, or its beginning, after Finish: what a program said that died. What a
// runtime prints of where it was, behind the cause, is no such line.
func (p *Pump) LastLine() string {
	last := ""
	for _, line := range p.LastLines() {
		if last == "" || isCause(line) || !isTrace(line) && !isCause(last) {
			last = line
		}
	}
	return strings.TrimSpace(strings.ToValidUTF8(last[:min(len(last), longestLast)], ""))
}

// isCause tells the line with which Go and Java begin what they print at their end.
func isCause(line string) bool {
	return strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") || strings.HasPrefix(line, "Exception in thread ")
}

// isTrace tells what they print behind it.
func isTrace(line string) bool { return line[0] == ' ' || line[0] == '\t' }

// LastLines returns the last lines, without empty ones, after Finish.
func (p *Pump) LastLines() []string {
	<-p.done
	return strings.FieldsFunc(string(bytes.TrimSpace(p.last)), func(r rune) bool { return r == '\n' || r == '\r' })
}

// The bounds of what is kept for LastLine and LastLines.
const (
	longestLast = 300
	mostLast    = 2 << 10
)

var newLine = []byte("\n")

// noteLast notes what may be the last that comes.
func (p *Pump) noteLast(b []byte) {
	b = b[max(0, len(b)-mostLast):]
	if over := len(p.last) + len(b) - mostLast; over > 0 {
		p.last = append(p.last[:0], p.last[over:]...)
	}
	p.last = append(p.last, b...)
}

func (p *Pump) run() {
	defer close(p.done)
	defer p.file.Close()
	buf, n := make([]byte, firstBuffer), 0
	for {
		m, err := p.file.Read(buf[n:])
		n += m
		full := n == len(buf)
		n = copy(buf, buf[p.pass(buf[:n], full):n])
		if len(buf) < maxLine && (n == len(buf) || p.handler == nil && full) {
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
				p.passRest(buf[:n])
			}
			return
		}
	}
}

// pass passes on what is in b, and returns how many bytes that were. Of a buffer that
// is full the last line stays, if there are others: two programs that print to one
// file do not break each other's lines.
func (p *Pump) pass(b []byte, full bool) (used int) {
	if p.handler != nil {
		if used = p.pumpLines(b); used == 0 && len(b) == maxLine {
			used = wholeRunes(b)
			p.logRecord(slog.LevelInfo, b[:used], slog.Bool("continued", true))
		}
		return used
	}
	used = len(b)
	if last := bytes.LastIndexByte(b, '\n') + 1; full && last > 0 && p.hasMore() {
		used = last
	}
	p.passRest(b[:used])
	return used
}

// hasMore reports whether there is something in the pipe.
func (p *Pump) hasMore() (more bool) {
	_ = fd.Control(p.file, func(pipe int) error {
		n, err := unix.IoctlGetInt(pipe, unix.TIOCINQ)
		more = n > 0
		return err
	})
	return more
}

// passRest passes on all of b, which may be the beginning of a line.
func (p *Pump) passRest(b []byte) {
	switch {
	case p.handler != nil:
		p.logLine(b)
	case len(b) > 0:
		p.noteLast(b)
		p.queue.await(b, p.service, &p.finishing)
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
		p.logLine(b[used : used+end])
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

func (p *Pump) logLine(line []byte) {
	p.logRecord(slog.LevelInfo, line)
	p.noteLast(newLine)
}

func (p *Pump) logRecord(level slog.Level, line []byte, more ...slog.Attr) {
	p.noteLast(line)
	r := slog.NewRecord(time.Now(), level, string(line), 0)
	r.AddAttrs(more...)
	_ = p.handler.Handle(context.Background(), r) // Write below has no error
}

// Write queues one formatted line as soon as there is room for it.
func (p *Pump) Write(line []byte) (int, error) {
	p.queue.await(line, p.service, &p.finishing)
	return len(line), nil
}

var _ io.Writer = (*Pump)(nil)
