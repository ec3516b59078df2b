package spec

import "testing"

func TestIsBelow(t *testing.T) {
	for _, tt := range []struct {
		path, folder string
		want         bool
	}{
		{"/a", "/a", true}, {"/a/b", "/a", true}, {"/a", "/", true}, {"/", "/", true},
		{"/ab", "/a", false}, {"/", "/a", false}, {"/b/a", "/a", false}, {"/a", "/a/b", false},
	} {
		if got := IsBelow(tt.path, tt.folder); got != tt.want {
			t.Errorf("%s below %s: %v", tt.path, tt.folder, got)
		}
	}
}
