package listen

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
	"activator/internal/spec"
)

// needAnother are the keys that only a new socket can have.
var needAnother = map[string]string{"reuse_port": "what was bound already shares nothing", "mptcp": "another protocol", "bind_ipv6_only": "not after bind"}

// TestAdoptOptions changes every option of the reference on a socket at which a client waits, and back:
// the client is answered, and the socket reads as one that was opened so.
func TestAdoptOptions(t *testing.T) {
	for key, cases := range optionTable {
		for i, tt := range cases {
			if tt.set != nil {
				t.Run(fmt.Sprintf("%s/%d", key, i), func(t *testing.T) { adoptOption(t, key, tt) })
			}
		}
	}
}

func adoptOption(t *testing.T, key string, tt readBack) {
	address := tt.address(t)
	if strings.HasPrefix(address, "unixgram") {
		address = "unixgram://" + t.TempDir() + "/s" // the client answers by path
	}
	want := socketSpec(t, address, tt.set)
	like, err := openOne(want, Means{})
	if err != nil {
		if !tt.root || os.Geteuid() == 0 {
			ktest.Skip(t, "%v", err)
		}
		return
	}
	wanted := allReadings(t, like)
	like.Close()
	s := open(t, address)
	first, plain := s.Spec(), allReadings(t, s)
	answer := client(t, s)
	if !s.AdoptSpec(want) {
		if needAnother[key] == "" {
			t.Error("not adopted")
		}
		return
	}
	checkReadings(t, s, wanted)
	serveOne(t, s)
	answer()
	if what, err := s.Mend(); what != "" || err != nil {
		t.Errorf("Mend: %q, %v", what, err)
	}
	checkReadings(t, s, wanted)
	answer = client(t, s)
	if !s.AdoptSpec(first) {
		t.Error("the first is not adopted again")
	}
	checkReadings(t, s, plain)
	serveOne(t, s)
	answer()
}

func allReadings(t *testing.T, s *Socket) (all map[string]string) {
	asService(t, s, func(fd int) { all = readings(fd) })
	return all
}

func checkReadings(t *testing.T, s *Socket, want map[string]string) {
	t.Helper()
	got := allReadings(t, s)
	for text := range maps.Keys(want) {
		if got[text] != want[text] {
			t.Errorf("%s reads %x, of a new socket %x", text, got[text], want[text])
		}
	}
}

// TestAdoptBacklog holds that another backlog keeps those who wait.
func TestAdoptBacklog(t *testing.T) {
	s := open(t, fmt.Sprint("tcp://127.0.0.1:", ktest.Port(t)))
	answer := client(t, s)
	want := s.Spec()
	want.Options.Backlog = 3
	if !s.AdoptSpec(want) {
		t.Fatal("not adopted")
	}
	asService(t, s, func(fd int) {
		if info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err != nil || info.Sacked != 3 {
			t.Errorf("backlog %d, %v", info.Sacked, err)
		}
	})
	serveOne(t, s)
	answer()
}

// TestAdoptNode changes who may connect, and the symlinks, also of a socket whose service has shut it
// down, and back.
func TestAdoptNode(t *testing.T) {
	for _, network := range []string{"unix", "unixpacket", "unixgram", "fifo"} {
		t.Run(network, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "s")
			group := fmt.Sprint(os.Getegid())
			s := open(t, network+"://"+path, func(o *spec.Options) { o.Symlinks = []string{dir + "/one", dir + "/two"} })
			first := s.Spec()
			answer := client(t, s)
			want := first
			want.Options.SocketMode, want.Options.SocketModeSet, want.Options.SocketGroup = 0o620, true, group
			want.Options.Symlinks = []string{dir + "/two", dir + "/three"}
			if !s.AdoptSpec(want) {
				t.Fatal("not adopted")
			}
			checkNode(t, path, 0o620, "one: , two: "+path+", three: "+path)
			serveOne(t, s)
			answer()
			if what, err := s.Mend(); what != "" || err != nil {
				t.Errorf("Mend: %q, %v", what, err)
			}
			if network == "fifo" {
				asService(t, s, func(fd int) { _ = unix.Fchmod(fd, 0o600) })
				if what, err := s.Mend(); !strings.Contains(what, "mode") || err != nil {
					t.Errorf("Mend: %q, %v", what, err)
				}
				checkNode(t, path, 0o620, "one: , two: "+path+", three: "+path)
			}
			answer = client(t, s)
			if !s.AdoptSpec(first) {
				t.Fatal("not adopted again")
			}
			checkNode(t, path, 0o666, "one: "+path+", two: "+path+", three: ")
			serveOne(t, s)
			answer()
			if err := s.Close(); err != nil || entries(t, dir) != "" {
				t.Errorf("left %q, %v", entries(t, dir), err)
			}
		})
	}
}

func checkNode(t *testing.T, path string, mode fs.FileMode, links string) {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != mode || int(st.Sys().(*syscall.Stat_t).Gid) != os.Getegid() {
		t.Errorf("%v, %v; want %v", st, err, mode)
	}
	var got []string
	for _, name := range []string{"one", "two", "three"} {
		target, _ := os.Readlink(filepath.Join(filepath.Dir(path), name))
		got = append(got, name+": "+target)
	}
	if got := strings.Join(got, ", "); got != links {
		t.Errorf("links %s, want %s", got, links)
	}
}

// TestAdoptOwner takes the owner back that an earlier configuration gave: it is that of a new node there.
// An ordinary user can give a node to his own group alone.
func TestAdoptOwner(t *testing.T) {
	dir := t.TempDir()
	user, group, folder := os.Geteuid(), os.Getegid(), os.Getegid()
	if user == 0 {
		user, group, folder = 1, 2, 3
		if err := os.Chown(dir, 0, folder); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Chmod(dir, 0o2755); err != nil {
		t.Fatal(err)
	}
	s := open(t, "unix://"+dir+"/s", func(o *spec.Options) { o.SocketUser, o.SocketGroup = fmt.Sprint(user), fmt.Sprint(group) })
	want := s.Spec()
	want.Options.SocketUser, want.Options.SocketGroup = "", ""
	var st unix.Stat_t
	if !s.AdoptSpec(want) || unix.Stat(dir+"/s", &st) != nil || int(st.Uid) != os.Geteuid() || int(st.Gid) != folder {
		t.Errorf("owner %d:%d, want %d:%d", st.Uid, st.Gid, os.Geteuid(), folder)
	}
}

// TestAdoptPipeSize changes the size of a pipe with something in it.
func TestAdoptPipeSize(t *testing.T) {
	s := open(t, "fifo://"+t.TempDir()+"/f")
	client(t, s)
	for _, size := range []int{8192, 0} {
		want := s.Spec()
		want.Options.PipeSize = size
		if !s.AdoptSpec(want) {
			t.Fatal("not adopted")
		}
		asService(t, s, func(fd int) {
			if n, err := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0); err != nil || size != 0 && n != size || size == 0 && n != 16*os.Getpagesize() {
				t.Errorf("%d, %v", n, err)
			}
		})
	}
	serveOne(t, s)
}

// TestAdoptSmallerPipe keeps what is in a pipe that is to be smaller than that.
func TestAdoptSmallerPipe(t *testing.T) {
	s := open(t, "fifo://"+t.TempDir()+"/f", func(o *spec.Options) { o.PipeSize = 256 << 10 })
	const said = 200_000
	writer, err := os.OpenFile(s.Spec().Address.Path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	if _, err := writer.Write(make([]byte, said)); err != nil {
		t.Fatal(err)
	}
	want := s.Spec()
	want.Options.PipeSize = 16 << 10
	if !s.AdoptSpec(want) {
		t.Fatal("not adopted")
	}
	size := func() (n int) {
		asService(t, s, func(fd int) { n, _ = unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0) })
		return n
	}
	if n := size(); n != 256<<10 {
		t.Errorf("a pipe of %d bytes", n)
	}
	asService(t, s, func(fd int) {
		for left := said; left > 0; {
			n, err := unix.Read(fd, make([]byte, left))
			if err != nil || n == 0 {
				t.Fatalf("%d bytes are lost: %v", left, err)
			}
			left -= n
		}
	})
	if what, err := s.Mend(); err != nil || size() != 16<<10 {
		t.Errorf("then a pipe of %d bytes, %q, %v", size(), what, err)
	}
}

// TestAdoptMPTCP changes buffers of a socket of MPTCP, on which SO_BUF_LOCK cannot be set back.
func TestAdoptMPTCP(t *testing.T) {
	s, err := openOne(socketSpec(t, fmt.Sprint("tcp://127.0.0.1:", ktest.Port(t)), func(o *spec.Options) { o.MPTCP = true }), Means{})
	if err != nil {
		ktest.Skip(t, "a kernel without MPTCP: %v", err)
	}
	defer s.Close()
	answer := client(t, s)
	first, want := s.Spec(), s.Spec()
	want.Options.ReceiveBuffer, want.Options.SendBuffer = 65536, 70000
	for _, to := range []spec.Socket{want, first} {
		if !s.AdoptSpec(to) {
			t.Errorf("not adopted: %+v", to.Options)
		}
	}
	serveOne(t, s)
	answer()
}

// TestAdoptRelayed changes an option of a relayed socket: what waits is kept.
func TestAdoptRelayed(t *testing.T) {
	r := &relays{t: t}
	s := openWith(t, fmt.Sprint("udp://127.0.0.1:", ktest.Port(t)), spec.Relayed, r.means())
	asService(t, s, func(int) {})
	want := s.Spec()
	want.Options.PassPacketInfo, want.Options.ReceiveBuffer = true, 65536
	if !s.AdoptSpec(want) {
		t.Fatal("not adopted")
	}
	asService(t, s, func(fd int) {
		if on, err := unix.GetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO); err != nil || on != 1 {
			t.Errorf("IP_PKTINFO of the relay socket: %d, %v", on, err)
		}
	})
}
