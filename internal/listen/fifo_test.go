package listen

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
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
	_ = errors.Join(s.file.Close(), s.fifo.Close())
	s.closed = true
	s = open(t, "fifo://"+dir+"/f", only)
	s.Close()
	if names := entries(t, dir); names != "" {
		t.Errorf("after the second run: %s", names)
	}
}

// A service reads its FIFO, and cannot write what the next one would read. That it never ends is ours to see to.
func TestFIFOIsReadOnly(t *testing.T) {
	path := t.TempDir() + "/f"
	s := open(t, "fifo://"+path, func(o *spec.Options) { o.SocketModeSet, o.SocketMode = true, 0o222 })
	defer s.Close()
	file, err := s.Lend()
	if err != nil {
		t.Fatal(err)
	}
	err = control(file, func(fd int) error {
		if n, err := unix.Write(fd, []byte("poison")); err != unix.EBADF {
			t.Errorf("%d bytes written, %v", n, err)
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&(unix.O_ACCMODE|unix.O_NONBLOCK) != unix.O_RDONLY {
			t.Errorf("flags %#o, %v", flags, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("hello"), 0); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 10)
	if n, err := file.Read(buffer); string(buffer[:n]) != "hello" || err != nil {
		t.Errorf("read %q, %v", buffer[:n], err)
	}
	if events := pollNow(number(t, file)); events != 0 {
		t.Errorf("its writer is gone, and it says %#x", events)
	}
}

// number is the descriptor of a file that the test keeps open.
func number(t *testing.T, file *os.File) (number int) {
	t.Helper()
	if err := control(file, func(fd int) error { number = fd; return nil }); err != nil {
		t.Fatal(err)
	}
	return number
}

// accessList lets a user read and write, acl(5) as linux/posix_acl_xattr.h has it.
func accessList() []byte {
	list := binary.LittleEndian.AppendUint32(nil, 2)
	for _, entry := range [][3]uint32{{0x01, 6, ^uint32(0)}, {0x02, 6, 12345}, {0x04, 0, ^uint32(0)}, {0x10, 6, ^uint32(0)}, {0x20, 0, ^uint32(0)}} {
		list = binary.LittleEndian.AppendUint16(list, uint16(entry[0]))
		list = binary.LittleEndian.AppendUint16(list, uint16(entry[1]))
		list = binary.LittleEndian.AppendUint32(list, entry[2])
	}
	return list
}

// checkAccess fails unless a FIFO can be opened as it should.
func checkAccess(t *testing.T, s *Socket, want fifoAccess, when string) {
	t.Helper()
	err := control(s.file, func(fd int) error {
		got, err := readFIFOAccess(fd)
		if got != want {
			t.Errorf("%s: %+v, want %+v", when, got, want)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestFIFOAccess: a service of ours changes who may open its FIFO, and so does one of an activator that is
// killed.
func TestFIFOAccess(t *testing.T) {
	dir := t.TempDir()
	lists := true
	for name, change := range map[string]func(fd int) error{
		"mode": func(fd int) error { return unix.Fchmod(fd, 0o666) },
		"list": func(fd int) error {
			err := unix.Fsetxattr(fd, aclName, accessList(), 0)
			lists = err == nil
			return nil
		},
		"group": func(fd int) error {
			if os.Geteuid() != 0 {
				return nil
			}
			return unix.Fchown(fd, 61184, 61184)
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			only := func(o *spec.Options) { o.SocketModeSet, o.SocketMode = true, 0o660 }
			s := open(t, "fifo://"+path, only)
			defer s.Close()
			was := s.state.access
			if what, err := s.Mend(); what != "" || err != nil {
				t.Errorf("unchanged: %q, %v", what, err)
			}
			if err := control(s.file, change); err != nil {
				t.Fatal(err)
			}
			if !lists || name == "group" && os.Geteuid() != 0 {
				t.Skip("not to be changed here")
			}
			if what, err := s.Mend(); what != "the service had changed its mode, owner or access control list; set back" || err != nil {
				t.Errorf("%q, %v", what, err)
			}
			checkAccess(t, s, was, "mended")
			if name == "group" {
				return // of a uid that is not root's, and so refused
			}
			if err := control(s.file, change); err != nil {
				t.Fatal(err)
			}
			if bad := ExamineSocket(socketSpec(t, "fifo://"+path, only), nil); len(bad) > 0 {
				t.Errorf("examined: %v", bad[0])
			}
			again := open(t, "fifo://"+path, only)
			defer again.Close()
			checkAccess(t, again, was, "opened by the next activator")
		})
	}
}

// Where another user may write, the FIFO with a reserve can be another one of ours, moved there: its mode stays.
func TestMovedFIFOWithReserve(t *testing.T) {
	dir := t.TempDir()
	private := func(o *spec.Options) { o.SocketModeSet, o.SocketMode = true, 0o600 }
	s := open(t, "fifo://"+dir+"/private", private)
	defer s.Close()
	err := errors.Join(os.Chmod(dir, 0o777), os.Rename(dir+"/private", dir+"/public"), os.Rename(dir+"/.private.activator", dir+"/.public.activator"))
	if err != nil {
		t.Fatal(err)
	}
	public, err := openOne(socketSpec(t, "fifo://"+dir+"/public"), Means{})
	if err == nil {
		public.Close()
	}
	if info, bad := os.Stat(dir + "/public"); err == nil || bad != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v, %v", err, info.Mode(), bad)
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
		both, reader, err := adoptFIFO(at, n, &o, owner{uid: -1, gid: -1}, began)
		if (err != nil) != moved {
			t.Errorf("moved %v: %v", moved, err)
		}
		if both != nil {
			both.Close()
			reader.Close()
		}
		info, err := os.Stat(dir + "/f")
		if want := map[bool]os.FileMode{false: 0o666, true: 0o600}[moved]; err != nil || info.Mode().Perm() != want {
			t.Errorf("moved %v: mode %v, want %v, %v", moved, info.Mode(), want, err)
		}
		at.Close()
		os.Remove(dir + "/f")
	}
}
