package listen

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"activator/internal/spec"

	"golang.org/x/sys/unix"
)

// mender does what the daemon does: mends whenever the watcher says so.
type mender struct {
	s       *Socket
	changed chan struct{}
}

func watchNode(t *testing.T, w *Watcher, s *Socket) *mender {
	t.Helper()
	h := &mender{s, make(chan struct{}, 1000)}
	if err := w.WatchNode(s, func() { h.changed <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	return h
}

// mend mends until what says so, as often as the watcher tells.
func (h *mender) mend(t *testing.T, says string) {
	t.Helper()
	var log []string
	for first := true; first || !strings.Contains(strings.Join(log, "\n"), says); first = false {
		select {
		case <-h.changed:
		case <-time.After(waitTimeout):
			t.Fatalf("not mended: %q", log)
		}
		what, err := h.s.MendNode()
		if err != nil {
			what += ": " + err.Error()
		}
		if what != "" {
			log = append(log, what)
		}
	}
	if what, err := h.s.MendNode(); strings.Contains(says, "bound anew") && (what != "" || err != nil) {
		t.Errorf("second MendNode: %q, %v", what, err)
	}
}

var nodeNetworks = []string{"unix", "unixgram", "unixpacket", "fifo"}

// TestMendNode takes the node away in every way; client is one who came before.
func TestMendNode(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(dir string) error // the node is dir/in/s
		says string
		kept bool // the same socket, with its queue
	}{
		{"node deleted", func(dir string) error { return os.Remove(dir + "/in/s") }, "was deleted; linked back", true},
		{"node moved away", func(dir string) error { return os.Rename(dir+"/in/s", dir+"/elsewhere") }, "linked back", true},
		{"node and reserve deleted", func(dir string) error {
			return errors.Join(os.Remove(dir+"/in/.s.activator"), os.Remove(dir+"/in/s"))
		}, "bound anew", false},
		{"folder deleted", func(dir string) error { return os.RemoveAll(dir + "/in") }, "", false},
		{"folder renamed", func(dir string) error { return os.Rename(dir+"/in", dir+"/away") }, "bound anew", false},
		{"folder above renamed", func(dir string) error { return os.Rename(dir, dir+"-away") }, "bound anew", false},
		{"replaced by a dead socket", func(dir string) error {
			stale(nil2{}, dir+"/dead")
			return os.Rename(dir+"/dead", dir+"/in/s")
		}, "was replaced; linked back", true},
	} {
		for _, network := range nodeNetworks {
			if network == "fifo" && strings.Contains(tt.name, "dead socket") {
				continue
			}
			t.Run(tt.name+"/"+network, func(t *testing.T) {
				dir := t.TempDir() + "/x/y"
				w := start(t)
				s := open(t, network+"://"+dir+"/in/s")
				h := watchNode(t, w, s)
				before := client(t, s)
				if err := tt.do(dir); err != nil && tt.name != "folder deleted" { // the node may be back in between
					t.Fatal(err)
				}
				h.mend(t, tt.says)
				if tt.says == "" {
					for range 2 { // once more, for whatever came in between
						s.MendNode()
					}
				}
				if !s.node.here(s.node.path) || !s.node.here(spec.ReservePath(s.node.path)) {
					t.Errorf("not in place: %s", entries(t, filepath.Dir(s.node.path)))
				}
				if tt.kept {
					serveOne(t, s)
					before()
				}
				if network != "fifo" || tt.kept {
					answer := client(t, s)
					serveOne(t, s)
					answer()
				}
			})
		}
	}
}

// nil2 is a testing.TB for helpers that cannot fail here.
type nil2 struct{ testing.TB }

func (nil2) Helper()           {}
func (nil2) Fatal(args ...any) { panic(args) }

// TestMendNodeRunning holds that a service that runs keeps serving through a node
// that was deleted: it has the very same socket.
func TestMendNodeRunning(t *testing.T) {
	w := start(t)
	s := open(t, "unix://"+t.TempDir()+"/s")
	h := watchNode(t, w, s)
	asService(t, s, func(fd int) {
		for range 3 {
			if err := os.Remove(s.node.path); err != nil {
				t.Fatal(err)
			}
			h.mend(t, "linked back")
			conn, err := net.Dial("unix", s.node.path)
			if err != nil {
				t.Fatal(err)
			}
			accepted, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
			if err != nil {
				t.Fatal(err)
			}
			unix.Close(accepted)
			conn.Close()
		}
	})
}

// TestMendNodeOccupied deletes nothing that took the place of the node, says what it
// is, and mends once it goes.
func TestMendNodeOccupied(t *testing.T) {
	for _, network := range nodeNetworks {
		for _, tt := range []struct {
			name, says string
			put        func(t *testing.T, path string) (remove func())
		}{
			{"file", "a regular file stands there", func(t *testing.T, path string) func() {
				if err := os.WriteFile(path+".new", []byte("precious"), 0o644); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(path+".new", path); err != nil {
					t.Fatal(err)
				}
				return func() { os.Remove(path) }
			}},
			{"live socket", "socket", func(t *testing.T, path string) func() {
				l, err := net.Listen("unix", path+".new")
				if err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(path+".new", path); err != nil {
					t.Fatal(err)
				}
				return func() { os.Remove(path); l.Close() }
			}},
		} {
			t.Run(network+"/"+tt.name, func(t *testing.T) {
				w := start(t)
				s := open(t, network+"://"+t.TempDir()+"/in/s")
				h := watchNode(t, w, s)
				remove := tt.put(t, s.node.path)
				before, _ := lstatID(s.node.path)
				h.mend(t, tt.says)
				var busy *OccupiedError
				if _, err := s.MendNode(); !errors.As(err, &busy) {
					t.Errorf("%v", err)
				}
				if after, err := lstatID(s.node.path); err != nil || after != before {
					t.Errorf("it was removed: %v", err)
				}
				remove()
				h.mend(t, "linked back")
				answer := client(t, s)
				serveOne(t, s)
				answer()
			})
		}
	}
}

// TestMendNodeFolderOccupied has a file where the folder was, and mends once that is
// gone.
func TestMendNodeFolderOccupied(t *testing.T) {
	w := start(t)
	dir := t.TempDir()
	s := open(t, "unix://"+dir+"/a/b/s")
	h := watchNode(t, w, s)
	if err := os.Rename(dir+"/a", dir+"/away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/a", nil, 0o644); err == nil {
		h.mend(t, "not a directory")
		os.Remove(dir + "/a")
	} // else it was mended before
	h.mend(t, "bound anew")
	answer := client(t, s)
	serveOne(t, s)
	answer()
}

// TestMendNodeArmed wakes the one who waits also for a client of the new socket.
func TestMendNodeArmed(t *testing.T) {
	w := start(t)
	s := open(t, "unix://"+t.TempDir()+"/in/s")
	fired := arm(t, w, s)
	if err := os.RemoveAll(filepath.Dir(s.node.path)); err != nil {
		t.Fatal(err)
	}
	if what, err := s.MendNode(); !strings.Contains(what, "bound anew") || err != nil {
		t.Fatalf("%q, %v", what, err)
	}
	if len(fired) > 0 {
		t.Error("fired without a client")
	}
	answer := client(t, s)
	expect(t, "client of the new socket", fired)
	serveOne(t, s)
	answer()
}

// TestReserveMissing makes a reserve again that somebody cleaned away.
func TestReserveMissing(t *testing.T) {
	w := start(t)
	s := open(t, "unix://"+t.TempDir()+"/s")
	h := watchNode(t, w, s)
	if err := os.Remove(spec.ReservePath(s.node.path)); err != nil {
		t.Fatal(err)
	}
	h.mend(t, "")
	if what, err := s.MendNode(); what != "" || err != nil {
		t.Errorf("%q, %v", what, err)
	}
	if !s.node.here(spec.ReservePath(s.node.path)) {
		t.Error("no reserve")
	}
}
