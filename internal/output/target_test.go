package output

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// print starts a pump to path and returns the end that a service would write to.
func print(t *testing.T, s *Sink, path string) (*Pump, *os.File) {
	t.Helper()
	target, err := s.OpenTarget(path, "echo")
	if err != nil {
		t.Fatal(err)
	}
	ours, child, err := OpenPipe()
	if err != nil {
		t.Fatal(err)
	}
	return CopyBytes(ours, target), child
}

// What a service prints to a file is there byte by byte when its output is finished.
func TestBytesAreUnchanged(t *testing.T) {
	s, r := open(t, "text", slog.LevelInfo)
	r.start()
	path := filepath.Join(t.TempDir(), "out")
	want := ""
	for _, in := range []string{"", "no newline", "\x00\xff\x1b[2J\u202e\n\n", strings.Repeat("x", 3*maxLine), strings.Repeat("a line\n", 100_000)} {
		pump, child := print(t, s, path)
		if _, err := io.WriteString(child, in); err != nil {
			t.Fatal(err)
		}
		child.Close()
		pump.Finish(time.Minute)
		want += in
		if text, err := os.ReadFile(path); err != nil || string(text) != want {
			t.Fatalf("%d bytes, want %d: %v", len(text), len(want), err)
		}
	}
	equal(t, r.lines(t, s), nil)
}

// A prompt without a newline is there while the service runs, however long it is.
func TestBytesDoNotWait(t *testing.T) {
	s, _ := open(t, "text", slog.LevelInfo)
	for _, n := range []int{1, firstBuffer - 1, firstBuffer, firstBuffer + 1, maxLine} {
		fifo := filepath.Join(t.TempDir(), "fifo")
		if err := unix.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
		far, err := os.OpenFile(fifo, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		pump, child := print(t, s, fifo)
		in := "\n" + strings.Repeat("x", n-1)
		if _, err := io.WriteString(child, in); err != nil {
			t.Fatal(err)
		}
		out := make([]byte, n)
		if _, err := io.ReadFull(far, out); err != nil || string(out) != in {
			t.Errorf("%d bytes: %q, %v", n, out, err)
		}
		child.Close()
		pump.Finish(time.Minute)
		far.Close()
	}
}

// Two instances that print to one file do not break each other's lines.
func TestLinesStayWhole(t *testing.T) {
	s, _ := open(t, "text", slog.LevelInfo)
	path := filepath.Join(t.TempDir(), "out")
	var pumps []*Pump
	for _, line := range []string{strings.Repeat("a", 76) + "\n", strings.Repeat("b", 100) + "\n"} {
		pump, child := print(t, s, path)
		pumps = append(pumps, pump)
		go func() {
			for range 20_000 {
				_, _ = io.WriteString(child, line)
			}
			child.Close()
		}()
	}
	for _, pump := range pumps {
		<-pump.done
		pump.Finish(0)
	}
	text, err := os.ReadFile(path)
	if err != nil || len(text) != 20_000*(77+101) {
		t.Fatalf("%d bytes, %v", len(text), err)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSuffix(line, "\n"); len(line) != 76 && len(line) != 100 || strings.Trim(line, line[:1]) != "" {
			t.Fatalf("%q", line)
		}
	}
}

// A reader that stalls, or is gone, keeps neither the end of a service nor what
// others print, and what is lost is said.
func TestStalledTarget(t *testing.T) {
	s, r := open(t, "text", slog.LevelInfo)
	r.start()
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	far, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	pump, child := print(t, s, fifo)
	flooding := make(chan struct{})
	go func() { // more than all that stands on the way
		defer close(flooding)
		for range 64 {
			if _, err := child.Write(make([]byte, 8<<10)); err != nil {
				return
			}
		}
	}()
	for stalled := false; !stalled; time.Sleep(time.Millisecond) {
		pump.queue.mu.Lock()
		stalled = pump.queue.stalled
		pump.queue.mu.Unlock()
	}
	other, quiet := feed(t, s, "quiet", "stdout", 1)
	io.WriteString(quiet, "hello\n")
	quiet.Close()
	other.Finish(time.Minute)
	began := time.Now()
	pump.Finish(0)
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("the end took %v", took)
	}
	<-flooding
	child.Close()
	far.Close()
	lines := r.lines(t, s)
	if len(lines) != 2 || !strings.Contains(lines[0], "msg=hello") || !strings.HasPrefix(lines[1], `level=WARN msg="output dropped: its file or the reader of it does not take it" service=echo to=`+fifo+" bytes=") {
		t.Errorf("%q", lines)
	}
}

// A FIFO whose reader comes back is written to again.
func TestReaderComesBack(t *testing.T) {
	s, r := open(t, "text", slog.LevelInfo)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	far, err := os.OpenFile(fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	pump, child := print(t, s, fifo)
	far.Close()
	io.WriteString(child, "lost\n")
	log := bufio.NewReader(r.File)
	if _, err := awaitLine(log, pump, child); err != nil {
		t.Fatal(err)
	}
	if far, err = os.OpenFile(fifo, os.O_RDONLY, 0); err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	io.WriteString(child, "found\n")
	if line, err := bufio.NewReader(far).ReadString('\n'); err != nil || line != "found\n" && line != "again\n" {
		t.Errorf("%q, %v", line, err)
	}
	child.Close()
	r.start()
	pump.Finish(time.Minute)
}

// awaitLine prints on until the log says that something was lost.
func awaitLine(log *bufio.Reader, pump *Pump, child *os.File) (string, error) {
	for {
		pump.queue.mu.Lock()
		lost := pump.queue.dropped > 0
		pump.queue.mu.Unlock()
		if lost {
			if _, err := io.WriteString(child, "again\n"); err != nil {
				return "", err
			}
			return log.ReadString('\n')
		}
		time.Sleep(time.Millisecond)
	}
}

// Our own stdout and stderr are written to by us alone, and get what was printed as
// it is. stderr is the log's too.
func TestInherit(t *testing.T) {
	s, r := open(t, "text", slog.LevelInfo)
	far, own, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	defer own.Close()
	for _, file := range []*os.File{own, s.file} {
		ours, child, err := OpenPipe()
		if err != nil {
			t.Fatal(err)
		}
		pump := CopyBytes(ours, s.Inherit(file, "echo"))
		io.WriteString(child, "as \x1b it is")
		child.Close()
		pump.Finish(time.Minute)
	}
	for _, file := range []*os.File{far, r.File} {
		b := make([]byte, 20)
		if n, err := file.Read(b); err != nil || string(b[:n]) != "as \x1b it is" {
			t.Errorf("%q, %v", b[:n], err)
		}
	}
}

// A datagram is what a service wrote, not as much as there is.
func TestInheritedDatagrams(t *testing.T) {
	s, _ := open(t, "text", slog.LevelInfo)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	far, own := os.NewFile(uintptr(pair[0]), "far"), os.NewFile(uintptr(pair[1]), "own")
	defer far.Close()
	defer own.Close()
	target := s.Inherit(own, "echo")
	for _, text := range []string{"one", "two"} {
		target.await([]byte(text), target.of, new(bool))
	}
	for _, want := range []string{"one", "two"} {
		b := make([]byte, 20)
		if n, err := far.Read(b); err != nil || string(b[:n]) != want {
			t.Errorf("%q, %v", b[:n], err)
		}
	}
}

// An error of the file is said once and not with each line.
func TestFullDisk(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip(err)
	}
	s, r := open(t, "text", slog.LevelInfo)
	r.start()
	pump, child := print(t, s, "/dev/full")
	for range 1000 {
		if _, err := io.WriteString(child, "line\n"); errors.Is(err, unix.EPIPE) {
			t.Fatal(err)
		}
	}
	child.Close()
	pump.Finish(time.Minute)
	lost := 0
	lines := r.lines(t, s)
	for _, line := range lines {
		_, number, _ := strings.Cut(line, "bytes=")
		n := 0
		for _, digit := range number {
			n = 10*n + int(digit-'0')
		}
		lost += n
	}
	if lost != 5000 || len(lines) > 2 {
		t.Errorf("%d bytes lost: %q", lost, lines)
	}
}
