package listen

import (
	"fmt"
	"maps"
	"os"
	"testing"
)

// Nodes in one folder share its watches, and each is put back; so it is when the folder is exchanged
// for another one, before or after the second node came.
func TestNeighbours(t *testing.T) {
	for _, early := range []bool{false, true} {
		t.Run(fmt.Sprintf("exchanged early %v", early), func(t *testing.T) {
			dir := t.TempDir()
			for _, folder := range []string{"/in", "/other"} {
				if err := os.Mkdir(dir+folder, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			w := start(t)
			one, two := open(t, "unix://"+dir+"/in/one"), open(t, "unix://"+dir+"/in/two")
			first := watchNode(t, w, one)
			if early {
				exchange(t, dir+"/in", dir+"/other")
			}
			second := watchNode(t, w, two)
			if !early {
				w.mu.Lock()
				a, b := w.nodes.tree.users[&one.interest].dirs, w.nodes.tree.users[&two.interest].dirs
				if !maps.EqualFunc(a, b, func(x, y []string) bool { return len(x) == len(y) }) {
					t.Errorf("watched for one: %v, for the other: %v", a, b)
				}
				if len(w.nodes.tree.known) != 1 {
					t.Errorf("known folders: %v", w.nodes.tree.known)
				}
				w.mu.Unlock()
				remove(t, one, two)
				first.mend(t, "linked back")
				second.mend(t, "linked back")
				exchange(t, dir+"/in", dir+"/other")
			}
			for _, h := range []*mender{first, second} {
				if _, _ = h.s.MendNode(); !answers(h.s.node.path) {
					h.await(t, "the folder is another one", func(error) bool { return answers(h.s.node.path) })
				}
				remove(t, h.s)
				h.await(t, "the node was removed", func(error) bool { return answers(h.s.node.path) })
			}
		})
	}
}

// The folder was away for a moment, and is back with the node in it before it is mended: the node is
// no stranger's live socket.
func TestFolderIsBack(t *testing.T) {
	s := open(t, "unix://"+t.TempDir()+"/s")
	at, err := makePlace(s.node.path, &s.spec.Options)
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	if linked, err := s.linkBack(at); !linked || err != nil {
		t.Errorf("%v, %v", linked, err)
	}
}
