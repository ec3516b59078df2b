package listen

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/proc"
	"activator/internal/ktest"
	"activator/internal/spec"
)

// stale makes a unix socket that nobody has.
func stale(t testing.TB, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func TestNodeMode(t *testing.T) {
	dir := t.TempDir()
	for i, tt := range []struct {
		network string
		set     bool
		mode    fs.FileMode
	}{
		{"unix", false, 0o666}, {"unix", true, 0o600}, {"unix", true, 0}, {"unixgram", true, 0o622}, {"unixpacket", true, 0o777},
		{"fifo", false, 0o666}, {"fifo", true, 0o640},
	} {
		path := fmt.Sprintf("%s/%d/deep/s", dir, i)
		s := open(t, tt.network+"://"+path, func(o *spec.Options) {
			o.SocketModeSet, o.SocketMode, o.DirectoryMode = tt.set, tt.mode, 0o775
		})
		for name, want := range map[string]fs.FileMode{path: tt.mode, filepath.Dir(path): 0o775, fmt.Sprintf("%s/%d", dir, i): 0o775} {
			st, err := os.Stat(name)
			if err != nil || st.Mode().Perm() != want {
				t.Errorf("%s: mode %v, %v; want %v", name, st.Mode(), err, want)
			}
		}
		s.Close()
		if names := entries(t, filepath.Dir(path)); names != "" {
			t.Errorf("left: %s", names)
		}
	}
}

// TestNodeModeUmask is TestNodeMode where unshare(2) is forbidden: our umask is
// in the way and what was made is widened. In a process of its own, as the umask
// is the whole process's.
func TestNodeModeUmask(t *testing.T) {
	const key = "ACTIVATOR_TEST_UMASK"
	if os.Getenv(key) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestNodeModeUmask$")
		cmd.Env = append(os.Environ(), key+"=1", "GORACE=atexit_sleep_ms=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	unix.Umask(0o077)
	dir := t.TempDir()
	for _, network := range []string{"unix", "fifo"} {
		path := dir + "/" + network + "/s"
		made, err := openSpec(socketSpec(t, network+"://"+path), new(pool)) // with our umask
		if err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o666 {
			t.Errorf("%s: %v, %v", network, st.Mode(), err)
		}
		if st, err := os.Stat(filepath.Dir(path)); err != nil || st.Mode().Perm() != 0o755 {
			t.Errorf("folder: %v, %v", st.Mode(), err)
		}
		made.file.Close()

		path = dir + "/" + network + "-exact/s"
		s := open(t, network+"://"+path)
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o666 {
			t.Errorf("%s: %v, %v", network, st.Mode(), err)
		}
		s.Close()
	}
	if old := unix.Umask(0o077); old != 0o077 {
		t.Errorf("umask of the process became %04o", old)
	}
}

func TestNodeOwner(t *testing.T) {
	dir := t.TempDir()
	for _, network := range []string{"unix", "fifo"} {
		for _, who := range []string{"12345", "nobody"} {
			path := dir + "/" + network + who
			s, err := openOne(socketSpec(t, network+"://"+path, func(o *spec.Options) {
				o.SocketUser, o.SocketGroup, o.SocketModeSet, o.SocketMode = who, "54321", true, 0o460
			}), Means{})
			if os.Geteuid() != 0 {
				if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "CAP_CHOWN") {
					t.Errorf("as an ordinary user: %v", err)
				}
				if names := entries(t, dir); names != "" {
					t.Errorf("left: %s", names)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil || st.Gid != 54321 || st.Mode&0o777 != 0o460 || (who == "12345") != (st.Uid == 12345) || st.Uid == 0 {
				t.Errorf("%s: uid %d gid %d mode %o, %v", path, st.Uid, st.Gid, st.Mode, err)
			}
			s.Close()
		}
	}
	_, err := openOne(socketSpec(t, "unix://"+dir+"/x", func(o *spec.Options) { o.SocketUser = "no-such-user" }), Means{})
	if err == nil || !strings.Contains(err.Error(), "socket_user: ") || !strings.Contains(err.Error(), "no-such-user") {
		t.Errorf("%v", err)
	}
	// A group of ours needs no privilege.
	gid := strconv.Itoa(os.Getegid())
	open(t, "unix://"+dir+"/mine", func(o *spec.Options) { o.SocketGroup = gid })
}

// TestStale replaces a socket that nobody has, also the reserve of an activator
// that was killed.
func TestStale(t *testing.T) {
	for _, network := range []string{"unix", "unixgram", "unixpacket"} {
		dir := t.TempDir()
		stale(t, dir+"/s")
		stale(t, dir+"/.s.activator")
		s := open(t, network+"://"+dir+"/s")
		if !s.node.here(dir+"/s") || !s.node.here(dir+"/.s.activator") {
			t.Errorf("%s: not ours", network)
		}
		if names := entries(t, dir); names != ".s.activator s" {
			t.Errorf("%s: %s", network, names)
		}
		s.Close()
		if names := entries(t, dir); names != "" {
			t.Errorf("left: %s", names)
		}
	}
}

// TestLongPath is the longest path there is: its reserve fits into no address.
func TestLongPath(t *testing.T) {
	dir, err := os.MkdirTemp("", "l")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := dir + "/" + strings.Repeat("n", len(unix.RawSockaddrUnix{}.Path)-1-len(dir)-1)
	stale(t, path)
	stale(t, dir+"/x")
	if err := os.Rename(dir+"/x", spec.ReservePath(path)); err != nil {
		t.Fatal(err)
	}
	s := open(t, "unix://"+path)
	if !s.node.here(path) || !s.node.here(spec.ReservePath(path)) {
		t.Error("not ours")
	}
	s.Close()
	if names := entries(t, dir); names != "" {
		t.Errorf("left: %s", names)
	}
}

// TestLive never steals a socket that somebody has, does not disturb him, and
// says who it is.
func TestLive(t *testing.T) {
	dir := t.TempDir()
	for _, network := range []string{"unix", "unixgram", "unixpacket"} {
		owner := open(t, network+"://"+dir+"/"+network)
		w := start(t)
		fired := arm(t, w, owner)
		before, _ := lstatID(dir + "/" + network)
		for _, as := range []string{"unix", "unixgram", "unixpacket"} {
			_, err := openOne(socketSpec(t, as+"://"+dir+"/"+network), Means{})
			var busy *OccupiedError
			if !errors.As(err, &busy) || !busy.Live || !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), fmt.Sprintf("a live socket of ourselves, pid %d stands there", os.Getpid())) {
				t.Errorf("%s at %s: %v", as, network, err)
			}
		}
		if after, err := lstatID(dir + "/" + network); err != nil || after != before {
			t.Errorf("the node is another one: %v", err)
		}
		if len(fired) != 0 {
			t.Error("the owner was woken")
		}
		// Also not while its node is missing: it is about to put it back.
		os.Remove(dir + "/" + network)
		if _, err := openOne(socketSpec(t, network+"://"+dir+"/"+network), Means{}); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("node missing: %v", err)
		}
	}
	// Bound but not listening yet.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: dir + "/bound"}); err != nil {
		t.Fatal(err)
	}
	if _, err := openOne(socketSpec(t, "unix://"+dir+"/bound"), Means{}); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("bound, not listening: %v", err)
	}
}

// TestForeign deletes nothing that is not a socket, and says what it is.
func TestForeign(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(dir+"/file", []byte("precious"), 0o644)
	os.Mkdir(dir+"/folder", 0o755)
	unix.Mkfifo(dir+"/fifo", 0o600)
	os.Symlink("file", dir+"/link")
	os.Symlink("nowhere", dir+"/dangling")
	stale(t, dir+"/socket")
	before := entries(t, dir)
	for _, tt := range []struct{ address, says string }{
		{"unix://%s/file", "/file: a regular file stands there and is not removed"},
		{"unix://%s/folder", "/folder: a folder stands there"},
		{"unixgram://%s/fifo", "/fifo: a FIFO stands there"},
		{"unix://%s/link", `/link: a symbolic link to "file" stands there`},
		{"unix://%s/dangling", `/dangling: a symbolic link to "nowhere" stands there`},
		{"fifo://%s/file", "/file: a regular file stands there"},
		{"fifo://%s/folder", "/folder: a folder stands there"},
		{"fifo://%s/link", `/link: a symbolic link to "file" stands there`},
		{"fifo://%s/socket", "/socket: a socket stands there"},
		{"fifo://%s/fifo", "/fifo: a FIFO with mode 0600, not 0666, stands there"},
		{"unix://%s/file/s", "not a directory"},
	} {
		s, err := openOne(socketSpec(t, fmt.Sprintf(tt.address, dir)), Means{})
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%v\ndoes not say %s", err, tt.says)
		}
	}
	if after := entries(t, dir); after != before {
		t.Errorf("%s became %s", before, after)
	}
}

func TestKeepOnStop(t *testing.T) {
	dir := t.TempDir()
	s := open(t, "unix://"+dir+"/s", func(o *spec.Options) { o.KeepOnStop, o.Symlinks = true, []string{dir + "/l"} })
	s.Close()
	if names := entries(t, dir); names != "l s" {
		t.Errorf("left: %s", names)
	}
	// The next run takes over what this one left.
	s = open(t, "unix://"+dir+"/s", func(o *spec.Options) { o.Symlinks = []string{dir + "/l"} })
	s.Close()
	if names := entries(t, dir); names != "" {
		t.Errorf("left: %s", names)
	}
}

// TestCloseForeign removes nothing that has taken the place of ours.
func TestCloseForeign(t *testing.T) {
	dir := t.TempDir()
	s := open(t, "unix://"+dir+"/s", func(o *spec.Options) { o.Symlinks = []string{dir + "/l"} })
	os.Remove(dir + "/s")
	os.Remove(dir + "/l")
	os.WriteFile(dir+"/s", []byte("precious"), 0o644)
	os.Symlink("elsewhere", dir+"/l")
	s.Close()
	if names := entries(t, dir); names != "l s" {
		t.Errorf("left: %s", names)
	}
}

func TestSymlinks(t *testing.T) {
	dir := t.TempDir()
	with := func(link string) spec.Socket {
		return socketSpec(t, "unix://"+dir+"/s", func(o *spec.Options) { o.Symlinks = []string{link} })
	}
	os.Symlink("nowhere", dir+"/dangling")
	os.Symlink(dir+"/s", dir+"/ours")
	os.Symlink("/", dir+"/other")
	os.WriteFile(dir+"/file", nil, 0o644)
	for _, name := range []string{"new", "dangling", "ours", "sub/folder/new"} {
		s, err := openOne(with(dir+"/"+name), Means{})
		if err != nil {
			t.Error(err)
			continue
		}
		if target, err := os.Readlink(dir + "/" + name); target != dir+"/s" {
			t.Errorf("%s: %q, %v", name, target, err)
		}
		s.Close()
		if _, err := os.Lstat(dir + "/" + name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
	for name, says := range map[string]string{"other": `symlinks: ` + dir + `/other: a symbolic link to "/" stands there`, "file": "a regular file stands there"} {
		if s, err := openOne(with(dir+"/"+name), Means{}); err == nil || !strings.Contains(err.Error(), says) {
			s.Close()
			t.Errorf("%v\ndoes not say %s", err, says)
		}
	}
	if names := entries(t, dir); names != "file other sub" {
		t.Errorf("left: %s", names)
	}
}

// TestInUse names who holds a port or a name.
func TestInUse(t *testing.T) {
	port := ktest.Port(t)
	for _, tt := range [][2]string{
		{"tcp://127.0.0.1:%d", "tcp://127.0.0.1:%d"},
		{"tcp://127.0.0.1:%d", "tcp://:%d"},
		{"tcp://:%d", "tcp4://:%d"},
		{"tcp://:%d", "tcp://127.0.0.1:%d"},
		{"tcp4://:%d", "tcp://127.0.0.1:%d"},
		{"udp://127.0.0.1:%d", "udp://127.0.0.1:%d"},
		{"udp://:%d", "udp://127.0.0.1:%d"},
		{"unix://@activator-in-use-%d", "unix://@activator-in-use-%d"},
	} {
		owner := open(t, fmt.Sprintf(tt[0], port))
		s, err := openOne(socketSpec(t, fmt.Sprintf(tt[1], port)), Means{})
		if err == nil {
			s.Close()
		}
		if !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), fmt.Sprintf("address already in use: held by ourselves, pid %d", os.Getpid())) {
			t.Errorf("%s beside %s: %v", tt[1], tt[0], err)
		}
		owner.Close()
	}
	// Families and protocols do not clash.
	if hasIPv6() {
		open(t, fmt.Sprintf("tcp4://:%d", port))
		open(t, fmt.Sprintf("tcp6://:%d", port))
		open(t, fmt.Sprintf("udp://:%d", port))
	}
}

// TestInUseByOther is another process: named by pid and comm.
func TestInUseByOther(t *testing.T) {
	const key = "ACTIVATOR_TEST_HOLD"
	if address := os.Getenv(key); address != "" {
		s := open(t, address)
		fmt.Println("held", s)
		os.Stdin.Read(make([]byte, 1))
		return
	}
	for _, address := range []string{fmt.Sprintf("tcp://127.0.0.1:%d", ktest.Port(t)), "unix://" + t.TempDir() + "/s"} {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestInUseByOther$")
		cmd.Env = append(os.Environ(), key+"="+address, "GORACE=atexit_sleep_ms=0")
		in, _ := cmd.StdinPipe()
		out, _ := cmd.StdoutPipe()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		fmt.Fscan(out, new(string), new(string))
		status, _ := proc.ReadStatus(cmd.Process.Pid)
		_, err := openOne(socketSpec(t, address), Means{})
		if want := fmt.Sprintf("pid %d (%s)", cmd.Process.Pid, status["Name"]); !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not say %s", err, want)
		}
		in.Close()
		cmd.Wait()
	}
}

func TestLowPort(t *testing.T) {
	first := proc.ReadSysctl("net.ipv4.ip_unprivileged_port_start")
	if os.Geteuid() == 0 {
		t.Skip("root may") // not ktest.Skip: the suite also runs as an ordinary user
	}
	if n, _ := strconv.Atoi(first); n <= 81 {
		ktest.Skip(t, "ip_unprivileged_port_start is %s", first)
	}
	s, err := openOne(socketSpec(t, "tcp://127.0.0.1:81"), Means{})
	if err == nil {
		s.Close()
	}
	want := "bind: permission denied: a port below " + first + " is for CAP_NET_BIND_SERVICE; or allow it to everybody: sysctl net.ipv4.ip_unprivileged_port_start=81"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v\ndoes not say %s", err, want)
	}
}

// TestRace opens one stale path many times at once: exactly one wins, the others
// are told of it, and the winner is reached.
func TestRace(t *testing.T) {
	for range 20 {
		path := t.TempDir() + "/s"
		stale(t, path)
		var (
			all    sync.WaitGroup
			mu     sync.Mutex
			winner []*Socket
		)
		for range 8 {
			all.Go(func() {
				s, err := openOne(socketSpec(t, "unix://"+path), Means{})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					winner = append(winner, s)
				} else if !errors.Is(err, unix.EADDRINUSE) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if len(winner) != 1 {
			t.Errorf("%d winners", len(winner))
		}
		for _, s := range winner {
			if len(winner) == 1 {
				answer := client(t, s)
				serveOne(t, s)
				answer()
			}
			s.Close()
		}
	}
}

func BenchmarkOpenAll(b *testing.B) {
	dir := b.TempDir()
	var specs []spec.Socket
	for i := range 100 {
		specs = append(specs, socketSpec(b, fmt.Sprintf("unix://%s/%d", dir, i)), socketSpec(b, fmt.Sprintf("tcp://127.1.0.%d:7711", i+1)),
			socketSpec(b, fmt.Sprintf("udp://127.1.0.%d:7711", i+1)))
	}
	for b.Loop() {
		sockets, err := OpenAll(b.Context(), specs, Means{})
		if err != nil {
			b.Fatal(err)
		}
		for _, s := range sockets {
			s.Close()
		}
	}
}

// here reports whether a path is the node's inode.
func (n *node) here(path string) bool {
	id, err := lstatID(path)
	return err == nil && id == n.id
}

func lstatID(path string) (id inode, err error) {
	var st unix.Stat_t
	err = unix.Lstat(path, &st)
	return inode{st.Dev, st.Ino}, err
}
