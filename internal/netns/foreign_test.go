package netns

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockdiag"
	"activator/internal/spec"
)

// stranger listens at a unix address by a socket that the test has made, and counts
// nothing: whoever is connected to it, is.
func stranger(t testing.TB, fd int, name string) {
	t.Helper()
	err := unix.Bind(fd, &unix.SockaddrUnix{Name: name})
	if err == nil {
		err = unix.Listen(fd, 10)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// ownSocket is a socket of the test's own network.
func ownSocket(t testing.TB) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func looked(t testing.TB, d *Target) bool {
	t.Helper()
	there, err := d.FindSockets()
	if err != nil {
		t.Fatal(err)
	}
	return there
}

// The kernel connects to whatever a path leads to, in whatever network it is, and the other
// end of that connection is of the network that we made ours in: so neither it nor the user, who
// is the same, tells whose it is.
func TestDialNobodyElse(t *testing.T) {
	i := newInmate(t)
	r := open(t, i.pid)
	dir := t.TempDir()
	host := ownSocket(t)
	stranger(t, host, dir+"/host")
	i.told("unix "+dir+"/mine", "listens")
	path := dir + "/target"
	if err := os.Symlink(dir+"/mine", path); err != nil {
		t.Fatal(err)
	}
	d := target(t, r, spec.Address{Network: spec.Unix, Path: path}, false)
	if !looked(t, d) || greeting(t, d, "") == "" {
		t.Fatal("the program is not found")
	}
	// What has been found does not count for what is there now, whatever a look says.
	if err := errors.Join(os.Remove(path), os.Symlink(dir+"/host", path)); err != nil {
		t.Fatal(err)
	}
	if greeting(t, d, "") == "" {
		t.Error("the node that was found is held")
	}
	if looked(t, d) {
		t.Error("it listens at a socket of the host")
	}
	for range 2 {
		if fd, err := d.Dial(addrPort("")); !errors.Is(err, ErrForeign) || !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("connected to the host: %d, %v", fd, err)
		}
	}
	if fd, _, err := unix.Accept(host); err != nil || netns(t, fd) != netns(t, d.pooledSocket(t)) || netns(t, fd) == netns(t, host) {
		t.Errorf("the network of the other end tells whose it is: %v", err)
	} else {
		_ = unix.Close(fd)
	}
	// The program is gone, and what it had listened at leads to the host.
	if err := errors.Join(os.Remove(path), os.Symlink(dir+"/mine", path)); err != nil || !looked(t, d) {
		t.Fatal(err)
	}
	i.told("away", "closed")
	_ = os.Remove(dir + "/mine")
	if err := os.Symlink(dir+"/host", dir+"/mine"); err != nil {
		t.Fatal(err)
	}
	if fd, err := d.Dial(addrPort("")); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("connected to the host: %d, %v", fd, err)
	}
}

// pooledSocket is one that the target has made.
func (d *Target) pooledSocket(t testing.TB) int {
	fd, err := d.takeSocket(poolUnix)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func netns(t testing.TB, fd int) uint64 {
	t.Helper()
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		t.Fatal(err)
	}
	return cookie
}

// Without knowing who the program is nobody is connected: that would be with our rights.
func TestDialUnidentified(t *testing.T) {
	i := newInmate(t)
	r, err := OpenProgram(i.pid)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	path := t.TempDir() + "/s"
	i.told("unix "+path, "listens")
	for _, name := range []string{path, "@none"} {
		d := target(t, r, spec.Address{Network: spec.Unix, Path: name}, false)
		if there, err := d.FindSockets(); there || err != errUnidentified {
			t.Errorf("%s: %v, %v", name, there, err)
		}
		if fd, err := d.Dial(addrPort("")); err != errUnidentified {
			t.Errorf("%s: %d, %v", name, fd, err)
		}
	}
}

// A name in a network that others are in, too, is the program's only if it is.
func TestDialNameInSharedNetwork(t *testing.T) {
	i := newInmate(t)
	r := open(t, i.pid)
	if !r.alone {
		t.Error("its network is not known for its own")
	}
	r.alone = false
	i.told("unix @mine", "listens")
	fds, err := r.makeSockets(spec.Kind{Family: unix.AF_UNIX, Type: unix.SOCK_STREAM | unix.SOCK_NONBLOCK})
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(fds)
	stranger(t, fds[0], "@stranger")
	for _, name := range []string{"@mine", "@stranger", "@nobody"} {
		d := target(t, r, spec.Address{Network: spec.Unix, Path: name}, false)
		for range 2 {
			if there, err := d.FindSockets(); there != (name != "@nobody") || err != nil {
				t.Errorf("%s: %v, %v", name, there, err)
			}
			fd, err := d.Dial(addrPort(""))
			if errors.Is(err, ErrForeign) != (name == "@stranger") || (err == nil) != (name == "@mine") {
				t.Errorf("%s: %d, %v", name, fd, err)
			}
			if err == nil {
				_ = unix.Close(fd)
			}
		}
	}
}

// What looks like the program's listener at a glance.
func TestIsNode(t *testing.T) {
	dir := t.TempDir()
	stranger(t, ownSocket(t), dir+"/s")
	node, err := unix.Open(dir+"/s", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	d := &Target{node: node}
	defer d.closeNode()
	stat := unix.Stat_t{Ino: 5<<32 | 7, Dev: unix.Mkdev(8, 300)}
	for value, want := range map[sockdiag.Node]bool{
		{Inode: 7, Device: 8<<20 | 300}: true,
		{Inode: 8, Device: 8<<20 | 300}: false,
		{Inode: 7, Device: 8<<20 | 301}: false, // another device, of the same number
		{Inode: 7}:                      false,
		{}:                              false,
	} {
		var fs unix.Statfs_t
		if err := unix.Fstatfs(node, &fs); err != nil || fs.Type == unix.OVERLAYFS_SUPER_MAGIC || fs.Type == unix.BTRFS_SUPER_MAGIC {
			t.Skip("a file system with devices of its own")
		}
		if got := d.isNode(&stat, value); got != want {
			t.Errorf("%v: %v", value, got)
		}
	}
}

// BenchmarkDialUnix is what a connection to a unix target costs.
func BenchmarkDialUnix(b *testing.B) {
	i := newInmate(b)
	r := open(b, i.pid)
	for name, path := range map[string]string{"path": b.TempDir() + "/s", "abstract": "@s"} {
		i.told("unix "+path, "listens")
		d := target(b, r, spec.Address{Network: spec.Unix, Path: path}, false)
		if there, err := d.FindSockets(); !there || err != nil {
			b.Fatal(there, err)
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				fd, err := d.Dial(addrPort(""))
				if err == unix.EAGAIN {
					continue // its queue is full
				}
				if err != nil {
					b.Fatal(err)
				}
				_ = unix.Close(fd)
			}
		})
		b.Run(name+", first", func(b *testing.B) {
			for b.Loop() {
				d.known = false
				fd, err := d.Dial(addrPort(""))
				if err == unix.EAGAIN {
					continue
				}
				if err != nil {
					b.Fatal(err)
				}
				_ = unix.Close(fd)
			}
		})
	}
}
