package listen

import (
	"os"
	"testing"
	"time"

	"activator/internal/kernel/fd"
	"activator/internal/spec"

	"golang.org/x/sys/unix"
)

// TestExistingFIFO uses one that is right, with what is in it, and leaves it.
func TestExistingFIFO(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(dir+"/f", 0o600); err != nil {
		t.Fatal(err)
	}
	only := func(o *spec.Options) { o.SocketModeSet, o.SocketMode = true, 0o600 }
	s := open(t, "fifo://"+dir+"/f", only)
	s.Close()
	if names := entries(t, dir); names != "f" {
		t.Errorf("after Close: %s", names)
	}
	os.Remove(dir + "/f")

	// One of a run that was killed is ours.
	s = open(t, "fifo://"+dir+"/f", only)
	s.file.Close()
	s.closed = true
	s = open(t, "fifo://"+dir+"/f", only)
	s.Close()
	if names := entries(t, dir); names != "" {
		t.Errorf("after the second run: %s", names)
	}
}

// A FIFO that was moved into the place of the one just made keeps its mode and owner.
func TestMovedFIFO(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(dir+"/old", 0o600); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond) // file systems stamp with the last tick, of 10 ms at most
	o := socketSpec(t, "fifo://"+dir+"/f").Options
	for _, moved := range []bool{false, true} {
		at, err := makePlace(dir+"/f", &o)
		if err != nil {
			t.Fatal(err)
		}
		began := fd.CoarseTime()
		if made, err := at.makeFIFO(0o666, owner{uid: -1, gid: -1}); !made {
			t.Fatal(err)
		}
		if moved {
			if err := os.Rename(dir+"/old", dir+"/f"); err != nil {
				t.Fatal(err)
			}
		}
		n := &node{path: dir + "/f", fifo: true, made: true}
		file, err := adoptFIFO(at, n, &o, owner{uid: -1, gid: -1}, began)
		if (err != nil) != moved {
			t.Errorf("moved %v: %v", moved, err)
		}
		if file != nil {
			file.Close()
		}
		info, err := os.Stat(dir + "/f")
		if want := map[bool]os.FileMode{false: 0o666, true: 0o600}[moved]; err != nil || info.Mode().Perm() != want {
			t.Errorf("moved %v: mode %v, want %v, %v", moved, info.Mode(), want, err)
		}
		at.Close()
		os.Remove(dir + "/f")
	}
}
