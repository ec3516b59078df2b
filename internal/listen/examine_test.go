package listen

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/access"
	"activator/internal/spec"
)

// examined is what is found of an address, "KEY: TEXT: CURE" each.
func examined(t *testing.T, address string, o spec.Options, ours func(string) bool) (found []string) {
	t.Helper()
	a, err := spec.ParseAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range ExamineSocket(spec.Socket{Address: a, Options: o}, ours) {
		found = append(found, strings.TrimSuffix(e.Key()+": "+e.Err.Error()+": "+e.Cure, ": "))
	}
	return found
}

// What Examine finds Open is refused; what it does not mind can be opened.
func TestExamine(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		address string
		options spec.Options
		want    string // the beginning of it; "": nothing
	}{
		{"tcp4://127.0.0.1:41311", spec.Options{}, ""},
		{"tcp4://127.0.0.9:41311", spec.Options{}, ""}, // the loopback is a network
		{"tcp4://192.0.2.1:41311", spec.Options{}, "listen: bind: cannot assign requested address: no interface has this address"},
		{"tcp4://192.0.2.1:41311", spec.Options{FreeBind: true}, ""},
		{"udp4://192.0.2.1:41311", spec.Options{}, "listen: bind: cannot assign requested address"},
		{"tcp4://127.0.0.1:41311", spec.Options{BindToDevice: "none7"}, "bind_to_device: setsockopt: no such device: there is no interface"},
		{"tcp4://127.0.0.1:41311", spec.Options{TCPCongestion: "none7"}, "tcp_congestion: setsockopt: no such file or directory: this kernel has no"},
		{"unix://DIR/new/deep/s", spec.Options{}, ""},
		{"unix://DIR/file", spec.Options{}, "listen: DIR/file: a regular file stands there"},
		{"unix://DIR", spec.Options{}, "listen: DIR: a folder stands there"},
		{"unix://DIR/file/s", spec.Options{}, "listen: make DIR/file/s: not a directory"},
		{"unix://DIR/s", spec.Options{SocketUser: "no-such"}, "socket_user: user: unknown user no-such"},
		{"unix://DIR/s", spec.Options{SocketGroup: "no-such"}, "socket_group: group: unknown group no-such"},
		{"unix://DIR/s", spec.Options{Symlinks: []string{dir + "/file"}}, "symlinks: DIR/file: a regular file stands there"},
		{"fifo://DIR/file", spec.Options{}, "listen: DIR/file: a regular file stands there"},
		{"fifo://DIR/fifo", spec.Options{}, "listen: DIR/fifo: a FIFO with mode 0600, not 0666"},
		{"fifo://DIR/fifo", spec.Options{SocketMode: 0o600, SocketModeSet: true}, ""},
		{"fifo://DIR/another", spec.Options{}, ""},
	} {
		in := func(s string) string { return strings.ReplaceAll(s, "DIR", dir) }
		found := examined(t, in(test.address), test.options, nil)
		if len(found) > 1 || (len(found) == 0) != (test.want == "") || test.want != "" && !strings.HasPrefix(found[0], in(test.want)) {
			t.Errorf("%s %+v: found %q, want %q", test.address, test.options, found, in(test.want))
		}
		a, _ := spec.ParseAddress(in(test.address))
		s, err := openOne(spec.Socket{Address: a, Options: test.options}, Means{})
		if (err == nil) != (test.want == "") {
			t.Errorf("%s %+v: Open says %v", test.address, test.options, err)
		}
		if err == nil {
			_ = s.Close()
		}
	}
}

// A port that is not everybody's, and a node that we may not give away.
func TestExamineWithoutRights(t *testing.T) {
	if access.HoldsCapability(unix.CAP_NET_BIND_SERVICE) || access.HoldsCapability(unix.CAP_CHOWN) {
		if found := examined(t, "tcp4://127.0.0.1:1", spec.Options{}, nil); len(found) != 0 {
			t.Errorf("as root: %q", found)
		}
		return
	}
	found := examined(t, "tcp4://127.0.0.1:1", spec.Options{}, nil)
	if first := unprivilegedPort(); first != "0" && first != "1" && (len(found) != 1 || !strings.Contains(found[0], "CAP_NET_BIND_SERVICE")) {
		t.Errorf("port 1: %q", found)
	}
	found = examined(t, "unix://"+t.TempDir()+"/s", spec.Options{SocketUser: "0", SocketGroup: "0"}, nil)
	if len(found) != 2 || !strings.HasPrefix(found[0], "socket_user: chown") || !strings.HasPrefix(found[1], "socket_group: chown") {
		t.Errorf("root's node: %q", found)
	}
}

// A live server is in the way, but not an activator, which has linked its node a second
// time, and not what the caller has himself.
func TestExamineLive(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	server, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	found := examined(t, "unix://"+path, spec.Options{}, nil)
	if len(found) != 1 || !strings.Contains(found[0], "a live socket of ourselves") {
		t.Errorf("a live server: %q", found)
	}
	if found := examined(t, "unix://"+path, spec.Options{}, func(p string) bool { return p == path }); len(found) != 0 {
		t.Errorf("our own: %q", found)
	}

	other := spec.Address{Network: spec.Unix, Path: filepath.Join(dir, "activator")}
	s, err := openOne(spec.Socket{Address: other}, Means{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if found := examined(t, other.String(), spec.Options{}, nil); len(found) != 0 {
		t.Errorf("an activator's: %q", found)
	}
	if _, err := os.Lstat(other.Path); err != nil {
		t.Errorf("it is gone: %v", err)
	}
}

// Examine leaves a folder as it was.
func TestExamineChangesNothing(t *testing.T) {
	dir := t.TempDir()
	stale, err := net.Listen("unix", dir+"/stale")
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = stale.Close()
	for _, address := range []string{"unix://" + dir + "/stale", "unix://" + dir + "/a/b", "fifo://" + dir + "/f"} {
		if found := examined(t, address, spec.Options{Symlinks: []string{dir + "/link"}}, nil); len(found) != 0 {
			t.Errorf("%s: %q", address, found)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, []string{"stale"}) {
		t.Errorf("the folder has %q", names)
	}
}
