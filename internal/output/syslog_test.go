package output

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openMessages returns both ends of a way for datagrams: ours, and the program's.
func openMessages(t *testing.T) (ours *os.File, theirs int) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(pair[1]) })
	return os.NewFile(uintptr(pair[0]), "syslog"), pair[1]
}

// Each message of syslog(3) is a record, or one for each of its lines, with its level; an empty one ends nothing.
func TestSyslog(t *testing.T) {
	sink, reader := open(t, "text", slog.LevelError) // the activator's own level is no affair of a service
	reader.start()
	ours, theirs := openMessages(t)
	p := sink.StartSyslog(ours, "shop", 7)
	const rest = " service=shop stream=syslog pid=7"
	long := strings.Repeat("x", maxLine)
	var want []string
	for _, message := range []struct{ sent, level, logged string }{
		{"<11>Dec  1 03:04:05 shop[7]: no disk\n\x00", "ERROR", `"shop[7]: no disk"`},
		{"<28>Dec 11 03:04:05 shop: late", "WARN", `"shop: late"`},
		{"", "INFO", `""`},
		{"<31>two\nlines", "DEBUG", "two"},
		{"", "DEBUG", "lines"},
		{"<6>" + long, "INFO", long[:maxLine-3]},
		{"no priority", "INFO", `"no priority"`},
		{"<>x", "INFO", `<>x`},
		{"<1000>x", "INFO", `<1000>x`},
		{"<165>1 2026-12-01T03:04:05Z host shop 7 - - new", "INFO", `"1 2026-12-01T03:04:05Z host shop 7 - - new"`},
		{"<13>\x1b[31mred", "INFO", `"\x1b[31mred"`},
	} {
		if message.logged != "lines" {
			if _, err := unix.Write(theirs, []byte(message.sent)); err != nil {
				t.Fatal(err)
			}
		}
		line := "level=" + message.level + " msg=" + message.logged + rest
		if strings.HasPrefix(message.sent, "<6>") {
			line += " truncated=true"
		}
		want = append(want, line)
	}
	p.Finish(time.Hour) // there is no end to wait for
	got := reader.lines(t, sink)
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if last := p.LastLine(); last != "\x1b[31mred" {
		t.Errorf("last %q", last)
	}
}

// A sender that does not stop does not hold up the end.
func TestSyslogFlood(t *testing.T) {
	sink, reader := open(t, "text", slog.LevelInfo)
	reader.start()
	ours, theirs := openMessages(t)
	if _, err := unix.Write(theirs, []byte("<13>first")); err != nil {
		t.Fatal(err)
	}
	p := sink.StartSyslog(ours, "shop", 7)
	ended := make(chan bool)
	go func() {
		defer close(ended)
		for {
			switch _, err := unix.Write(theirs, []byte("<13>more")); err {
			case nil, unix.EAGAIN:
			default:
				return // nobody reads any more
			}
		}
	}()
	p.Finish(time.Hour)
	<-ended
	if len(reader.lines(t, sink)) == 0 {
		t.Error("nothing is logged")
	}
}

func FuzzSyslogMessage(f *testing.F) {
	f.Add([]byte("<13>Dec  1 03:04:05 shop[7]: text\n"))
	f.Add([]byte("<191>"))
	f.Add([]byte("<13"))
	f.Fuzz(func(t *testing.T, b []byte) {
		level, text := parseMessage(b)
		if !bytes.Contains(b, text) || level < slog.LevelDebug || level > slog.LevelError {
			t.Errorf("%q: %v, %q", b, level, text)
		}
	})
}
