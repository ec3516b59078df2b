package output

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A log is rotated as often as one likes: every line is there once and in order, in one of the files.
func TestReopen(t *testing.T) {
	s, r := open(t, "text", slog.LevelInfo)
	r.start()
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	pump, child := print(t, s, path)
	s.Reopen() // the same file
	const rotations, lines = 20, 500
	want := ""
	for i := range rotations {
		for n := range lines {
			line := fmt.Sprintf("%d %d\n", i, n)
			if _, err := child.WriteString(line); err != nil {
				t.Fatal(err)
			}
			want += line
		}
		if err := os.Rename(path, fmt.Sprintf("%s/%03d", dir, i)); err != nil {
			t.Fatal(err)
		}
		s.Reopen()
		if _, err := os.Stat(path); err != nil {
			t.Fatal(err)
		}
	}
	child.Close()
	pump.Finish(time.Minute)
	s.Reopen() // nobody prints any more
	got := ""
	files, _ := filepath.Glob(dir + "/*") // sorted, out the last
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		got += string(text)
	}
	if got != want || len(files) != rotations+1 {
		t.Errorf("%d files, %d bytes, want %d", len(files), len(got), len(want))
	}
	equal(t, r.lines(t, s), nil)
}

// A file that cannot be opened again: what is printed goes to the old one, and the log says so.
func TestReopenRefused(t *testing.T) {
	s, r := open(t, "text", slog.LevelInfo)
	r.start()
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	pump, child := print(t, s, path)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	s.Reopen()
	if _, err := child.WriteString("a line\n"); err != nil {
		t.Fatal(err)
	}
	child.Close()
	pump.Finish(time.Minute)
	if text, err := os.ReadFile(path + ".1"); err != nil || string(text) != "a line\n" {
		t.Errorf("%q, %v", text, err)
	}
	if said := strings.Join(r.lines(t, s), "\n"); !strings.Contains(said, "output goes on to the file that was moved") || !strings.Contains(said, path) {
		t.Errorf("the log says %q", said)
	}
}
