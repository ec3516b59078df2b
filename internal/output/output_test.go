package output

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// reader is the far end of a log: it reads only when told to.
type reader struct {
	*os.File
	all chan string // capacity 1: what was read until the end of file
}

// open returns a sink and the far end of the pipe that it writes to.
func open(t *testing.T, format string, level slog.Level) (*Sink, *reader) {
	t.Helper()
	far, near, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s := NewSink(near, format, level)
	t.Cleanup(func() {
		far.Close() // first: it ends a write that waits
		s.Close()
		<-s.done
		near.Close()
	})
	return s, &reader{far, make(chan string, 1)}
}

// start begins to read everything there will be.
func (r *reader) start() {
	go func() {
		b, _ := io.ReadAll(r.File)
		r.all <- string(b)
	}()
}

// lines closes the log and returns what it wrote, a line each, without times.
func (r *reader) lines(t *testing.T, s *Sink) []string {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s.file.Close() // the reader's end of file
	var lines []string
	for line := range strings.Lines(<-r.all) {
		if strings.HasPrefix(line, "time=") {
			_, line, _ = strings.Cut(line, " ")
		}
		lines = append(lines, strings.TrimSuffix(line, "\n"))
	}
	return lines
}

// feed starts a pump and returns the end that a service would write to.
func feed(t *testing.T, s *Sink, service, stream string, pid int) (*Pump, *os.File) {
	t.Helper()
	ours, child, err := OpenPipe()
	if err != nil {
		t.Fatal(err)
	}
	return s.StartPump(ours, service, stream, pid), child
}

func TestLines(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for _, tc := range []struct {
		name, in string
		want     []string // the attributes after the fixed ones, in order
	}{
		{"nothing", "", nil},
		{"line", "hello\n", []string{`msg=hello`}},
		{"words", "hello world\n", []string{`msg="hello world"`}},
		{"two", "a\nb\n", []string{`msg=a`, `msg=b`}},
		{"empty", "\n\n", []string{`msg=""`, `msg=""`}},
		{"last without newline", "a\nb", []string{`msg=a`, `msg=b`}},
		{"forged line", "a\rlevel=ERROR msg=b\n", []string{`msg="a\rlevel=ERROR msg=b"`}},
		{"escape sequence", "\x1b[2J\n", []string{`msg="\x1b[2J"`}},
		{"binary", "\x00\xff\x7f\n", []string{`msg="\x00\xff\x7f"`}},
		{"just not long", long[1:] + "\n", []string{`msg=` + long[1:]}},
		{"long", long + "yz\n", []string{`msg=` + long + ` continued`, `msg=yz`}},
		{"long, no split character", long[1:] + "é\n", []string{`msg=` + long[1:] + ` continued`, `msg=é`}},
		{"long, no newline", long + long + "y", []string{`msg=` + long + ` continued`, `msg=` + long + ` continued`, `msg=y`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, r := open(t, "text", slog.LevelInfo)
			r.start()
			pump, child := feed(t, s, "echo", "stderr", 42)
			io.WriteString(child, tc.in)
			child.Close()
			pump.Finish(time.Minute)
			var want []string
			for _, w := range tc.want {
				msg, continued := strings.CutSuffix(w, " continued")
				line := "level=INFO " + msg + " service=echo stream=stderr pid=42"
				if continued {
					line += " continued=true"
				}
				want = append(want, line)
			}
			equal(t, r.lines(t, s), want)
		})
	}
}

func equal(t *testing.T, got, want []string) {
	t.Helper()
	if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
}

func TestJSON(t *testing.T) {
	s, r := open(t, "json", slog.LevelInfo)
	r.start()
	s.Logger().Info("service running", "service", "echo", "pid", 7)
	pump, child := feed(t, s, "echo", "stdout", 7)
	io.WriteString(child, "a \x00 \xff b\n")
	child.Close()
	pump.Finish(time.Minute)
	lines := r.lines(t, s)
	if len(lines) != 2 {
		t.Fatalf("got %q", lines)
	}
	for i, want := range []string{"service running", "a \x00 \ufffd b"} {
		var record struct {
			Msg, Service string
			Pid          int
		}
		if err := json.Unmarshal([]byte(lines[i]), &record); err != nil {
			t.Fatalf("%s: %v", lines[i], err)
		}
		if record.Msg != want || record.Service != "echo" || record.Pid != 7 {
			t.Errorf("got %+v, want msg %q", record, want)
		}
	}
}

// The level is the activator's; a service's output is there at every level.
func TestLevel(t *testing.T) {
	s, r := open(t, "text", slog.LevelWarn)
	r.start()
	s.Logger().Info("unseen")
	s.Logger().Warn("seen")
	pump, child := feed(t, s, "echo", "stdout", 1)
	io.WriteString(child, "output\n")
	child.Close()
	pump.Finish(time.Minute)
	equal(t, r.lines(t, s), []string{"level=WARN msg=seen", "level=INFO msg=output service=echo stream=stdout pid=1"})
}

// What a service printed before it ended stands before the line about its end.
func TestOrder(t *testing.T) {
	s, r := open(t, "text", slog.LevelInfo)
	r.start()
	for i := range 100 {
		pump, child := feed(t, s, "echo", "stdout", i)
		io.WriteString(child, "output\n")
		child.Close()
		pump.Finish(time.Minute)
		s.Logger().Info("ended", "pid", i)
	}
	lines := r.lines(t, s)
	if len(lines) != 200 {
		t.Fatalf("%d lines", len(lines))
	}
	for i := range 100 {
		equal(t, lines[2*i:2*i+2], []string{
			fmt.Sprintf("level=INFO msg=output service=echo stream=stdout pid=%d", i),
			fmt.Sprintf("level=INFO msg=ended pid=%d", i),
		})
	}
}

// A reader that stalls stops neither an event nor the end of a service, even of
// one whose own share is full; memory stays bounded; what was lost is counted.
func TestStalledReader(t *testing.T) {
	s, r := open(t, "text", slog.LevelInfo)
	const services, events = 80, 5000
	for i := range services {
		pump, child := feed(t, s, "flood", "stdout", i)
		flooding := make(chan struct{})
		go func() {
			defer close(flooding)
			defer child.Close()
			child.Write(bytes.Repeat([]byte("0123456789abcde\n"), 64<<10/16+serviceShare/16))
		}()
		pump.Finish(time.Minute)
		<-flooding
	}
	for i := range events {
		s.Logger().Info("event", "n", i)
	}
	s.mu.Lock()
	held, dropped, waiting := 0, s.dropped, len(s.entries)
	for _, e := range s.entries {
		held += len(e.line)
	}
	s.mu.Unlock()
	if most := eventShare + serviceShare + 2*maxLine; held > most {
		t.Errorf("%d bytes are queued, more than %d", held, most)
	}
	if dropped == 0 {
		t.Error("nothing counted as dropped")
	}
	r.start()
	lines := r.lines(t, s)
	seen, told := 0, 0
	for _, l := range lines {
		var n int
		if _, err := fmt.Sscanf(l, `level=WARN msg="log lines dropped: the reader of the log is too slow" lines=%d`, &n); err == nil {
			told += n
			continue
		}
		seen++
	}
	if seen < waiting {
		t.Errorf("%d lines were queued, %d seen", waiting, seen)
	}
	all := services*(64<<10/16+serviceShare/16) + events
	if seen+told != all {
		t.Errorf("%d lines seen and %d counted as dropped: want %d together", seen, told, all)
	}
}

// A service that floods waits in its own pipe. A quiet one beside it is heard
// after no more than what was queued before, and loses nothing.
func TestFlood(t *testing.T) {
	s, r := open(t, "text", slog.LevelInfo)
	loud, flood := feed(t, s, "loud", "stdout", 1)
	var flooding sync.WaitGroup
	flooding.Go(func() {
		for {
			if _, err := io.WriteString(flood, "noise\n"); err != nil {
				return
			}
		}
	})
	log := bufio.NewReader(r.File)
	for range 100 { // the flood is on
		if _, err := log.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		quiet, child := feed(t, s, "quiet", "stdout", i)
		io.WriteString(child, "hello\n")
		child.Close()
		quiet.Finish(time.Minute)
		want := fmt.Sprintf("service=quiet stream=stdout pid=%d\n", i)
		for before := 0; ; {
			line, err := log.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(line, want) {
				break
			}
			before += len(line)
			// The pipe of the log, the reader's buffer, a batch, the share.
			if most := 64<<10 + 4<<10 + batchSize + serviceShare + maxLine; before > most {
				t.Fatalf("%d bytes of the loud service came first, more than %d", before, most)
			}
		}
	}
	r.start()
	loud.Finish(0) // the flood's next write is EPIPE
	flooding.Wait()
	flood.Close()
}

// Everything a service prints arrives, however fast, while the log is read.
func TestNothingLost(t *testing.T) {
	s, r := open(t, "text", slog.LevelInfo)
	r.start()
	const services, each = 4, 5000
	var all sync.WaitGroup
	for i := range services {
		pump, child := feed(t, s, "echo", "stdout", i)
		all.Go(func() {
			w := bufio.NewWriter(child)
			for n := range each {
				fmt.Fprintf(w, "line-%d\n", n)
			}
			w.Flush()
			child.Close()
			pump.Finish(time.Minute)
		})
	}
	all.Wait()
	next := make(map[int]int)
	for _, line := range r.lines(t, s) {
		var n, pid int
		if _, err := fmt.Sscanf(line, "level=INFO msg=line-%d service=echo stream=stdout pid=%d", &n, &pid); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if next[pid] != n {
			t.Fatalf("service %d: line %d came, want %d", pid, n, next[pid])
		}
		next[pid]++
	}
	for pid := range services {
		if next[pid] != each {
			t.Errorf("service %d: %d lines, want %d", pid, next[pid], each)
		}
	}
}

// Ten megabytes without a newline become bounded lines that hold every byte.
func TestBinaryWithoutNewline(t *testing.T) {
	s, r := open(t, "text", slog.LevelInfo)
	r.start()
	pump, child := feed(t, s, "echo", "stdout", 1)
	const size = 10 << 20
	block := bytes.Repeat([]byte{0, 1, 0x80, 0xff, 'a', '"', 0x1b}, 1024)
	for n := 0; n < size; n += len(block) {
		if _, err := child.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	child.Close()
	pump.Finish(time.Minute)
	lines := r.lines(t, s)
	letters := 0
	for _, line := range lines {
		if len(line) > 4*maxLine+200 {
			t.Fatalf("a line of %d bytes", len(line))
		}
		message, _, _ := strings.Cut(strings.TrimPrefix(line, "level=INFO msg="), " service=")
		letters += strings.Count(message, "a")
	}
	if want := (size + len(block) - 1) / len(block) * 1024; letters != want {
		t.Errorf("%d letters, want %d", letters, want)
	}
}

// Somebody else may hold the pipe when the service has ended.
func TestFinishWithoutEndOfFile(t *testing.T) {
	s, r := open(t, "text", slog.LevelInfo)
	r.start()
	pump, child := feed(t, s, "echo", "stdout", 1)
	defer child.Close()
	io.WriteString(child, "a\nb")
	pump.Finish(50 * time.Millisecond)
	pump.Finish(time.Hour) // twice is fine
	equal(t, r.lines(t, s), []string{
		"level=INFO msg=a service=echo stream=stdout pid=1",
		"level=INFO msg=b service=echo stream=stdout pid=1",
	})
}

// What was written before Finish is logged however long that takes, also when
// the end of file does not come.
func TestFinishReadsWhatIsThere(t *testing.T) {
	s, r := open(t, "text", slog.LevelInfo)
	pump, child := feed(t, s, "echo", "stdout", 1)
	defer child.Close()
	const lines = 1200
	for i := range lines { // some in the log's pipe, some in the queue, some in the child's
		fmt.Fprintf(child, "line-%d-%060d\n", i, 0)
	}
	r.start()
	pump.Finish(0)
	if got := len(r.lines(t, s)); got != lines {
		t.Errorf("%d lines, want %d", got, lines)
	}
}

func TestReaderGone(t *testing.T) {
	s, r := open(t, "text", slog.LevelInfo)
	r.Close()
	pump, child := feed(t, s, "echo", "stdout", 1)
	for range 1000 {
		s.Logger().Info("event")
		if _, err := io.WriteString(child, "output\n"); err != nil {
			t.Fatal(err)
		}
	}
	child.Close()
	pump.Finish(time.Minute)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// With a reader that stalls, Close says how much is lost instead of waiting on.
func TestCloseStalled(t *testing.T) {
	s, _ := open(t, "text", slog.LevelInfo)
	for range 2000 {
		s.Logger().Info("event", "text", strings.Repeat("x", 100))
	}
	if err := s.Close(); err == nil || !strings.Contains(err.Error(), "lines not written") {
		t.Errorf("got %v", err)
	}
}

func TestPipe(t *testing.T) {
	ours, child, err := OpenPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	if err := ours.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Errorf("our end is not polled: %v", err)
	}
	if err := child.SetWriteDeadline(time.Unix(1, 0)); err == nil {
		t.Error("the child's end does not block")
	}
	child.Close()
}
