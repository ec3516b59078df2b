package output

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// StartSyslog takes r, a datagram socket that is bound where syslog(3) of a service arrives, and logs each message: with
// the level that it has, without the time that it names. The caller calls Finish once nobody sends any more.
func (s *Sink) StartSyslog(r *os.File, service string, pid int) *Pump {
	p := s.newPump(r, service, "syslog", pid)
	p.endless = true
	go p.runMessages()
	return p
}

// runMessages logs datagrams. Finish ends it, after what is there already.
func (p *Pump) runMessages() {
	defer close(p.done)
	defer p.file.Close()
	buf := make([]byte, maxLine+1)
	for {
		n := 0
		err := fd.Read(p.file, func(socket int) (err error) {
			n, err = unix.Read(socket, buf)
			return err
		})
		if errors.Is(err, os.ErrDeadlineExceeded) && p.rest > 0 {
			if n, err = p.readNow(buf); err == io.EOF { // an empty message
				err = nil
			}
			p.rest -= max(n, 1)
		}
		if err != nil {
			return
		}
		p.logMessage(buf[:n])
	}
}

// logMessage logs a message, a record a line. One that is too long has lost its end.
func (p *Pump) logMessage(b []byte) {
	var more []slog.Attr
	if len(b) > maxLine {
		b, more = b[:maxLine], append(more, slog.Bool("truncated", true))
	}
	level, text := parseMessage(b)
	for line := range bytes.SplitSeq(text, newLine) {
		p.logRecord(level, line, more...)
		p.noteLast(newLine)
	}
}

// levels are those of the severities of syslog(3), from LOG_EMERG to LOG_DEBUG.
var levels = [8]slog.Level{slog.LevelError, slog.LevelError, slog.LevelError, slog.LevelError, slog.LevelWarn, slog.LevelInfo, slog.LevelInfo, slog.LevelDebug}

// parseMessage reads what syslog(3) sends, RFC 3164: <13>Dec  1 03:04:05 name[7]: text. What a message lacks of it is not missed.
func parseMessage(b []byte) (level slog.Level, text []byte) {
	level, text = slog.LevelInfo, bytes.TrimRight(b, "\n\x00")
	if rest, ok := bytes.CutPrefix(text, []byte("<")); ok {
		priority, rest, ok := bytes.Cut(rest, []byte(">"))
		if n, err := strconv.ParseUint(string(priority), 10, 10); ok && err == nil && len(priority) <= 3 {
			level, text = levels[n%8], rest
		}
	}
	const stamp = "Jan _2 15:04:05 "
	if len(text) >= len(stamp) && text[3] == ' ' && text[6] == ' ' && text[9] == ':' && text[12] == ':' && text[15] == ' ' {
		text = text[len(stamp):]
	}
	return level, text
}
