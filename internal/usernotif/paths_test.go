package usernotif

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

func TestWants(t *testing.T) {
	const readWrite = spec.Read | spec.Write
	for _, test := range []struct {
		call string
		args [6]uint64
		want spec.Access
	}{
		{"open", [6]uint64{0, unix.O_RDONLY}, spec.Read},
		{"open", [6]uint64{0, unix.O_WRONLY | unix.O_APPEND}, spec.Write},
		{"open", [6]uint64{0, unix.O_RDWR | unix.O_CREAT}, readWrite | spec.Make},
		{"openat", [6]uint64{0, 0, unix.O_PATH}, 0},
		{"openat", [6]uint64{0, 0, unix.O_TMPFILE | unix.O_RDWR}, readWrite | spec.Make},
		{"openat", [6]uint64{0, 0, unix.O_DIRECTORY}, spec.Read},
		{"creat", [6]uint64{}, spec.Write | spec.Make},
		{"access", [6]uint64{0, unix.R_OK | unix.W_OK}, readWrite},
		{"faccessat2", [6]uint64{0, 0, unix.F_OK}, 0},
		{"mkdirat", [6]uint64{0, 0, 0o755}, spec.Make},
		{"stat", [6]uint64{0, ^uint64(0)}, 0},
	} {
		if got := pathCalls[test.call].wants(test.args); got != test.want {
			t.Errorf("%s%v: %b, not %b", test.call, test.args, got, test.want)
		}
	}
}

// What is looked up is what the kernel would say.
func TestLookUp(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"open": 0o600, "shut": 0} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o500); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name  string
		want  spec.Access
		there bool
		errno unix.Errno
	}{
		{"open", spec.Read | spec.Write | spec.Make, true, 0},
		{"shut", spec.Read, true, unix.EACCES},
		{"shut", 0, true, 0},
		{"none", spec.Read, true, unix.ENOENT},
		{"none", spec.Write | spec.Make, false, 0},
		{"none/none", spec.Make, false, unix.ENOENT},
		{"open/none", spec.Read, true, unix.ENOTDIR},
		{"folder/none", spec.Make, false, unix.EACCES},
		{"link", spec.Read, true, unix.ENOENT},
	} {
		there, errno := lookUp(os.Getpid(), filepath.Join(dir, test.name), test.want)
		if there != test.there || errno != test.errno {
			t.Errorf("%s, %b: %v, %v, not %v, %v", test.name, test.want, there, errno, test.there, test.errno)
		}
	}
	if there, errno := lookUp(1<<30, dir, spec.Read); !there || errno != 0 {
		t.Errorf("of nobody: %v, %v", there, errno)
	}
}

// A string may end with its page, and have no end at all.
func TestCopyText(t *testing.T) {
	size := os.Getpagesize()
	pages, err := unix.Mmap(-1, 0, 3*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(pages)
	if err := unix.Mprotect(pages[2*size:], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	at := func(end int, text string) uint64 {
		copy(pages[end-len(text):end], text)
		return uint64(uintptr(unsafe.Pointer(&pages[end-len(text)])))
	}
	for _, test := range []struct {
		end  int
		text string
		ok   bool
	}{{2 * size, "/last\x00", true}, {size + 3, "/across\x00", true}, {2 * size, "/endless", false}, {size, "\x00", true}} {
		got, ok := copyText(uint32(os.Getpid()), at(test.end, test.text))
		if ok != test.ok || ok && got != strings.TrimSuffix(test.text, "\x00") {
			t.Errorf("%q: %q, %v", test.text, got, ok)
		}
	}
	copy(pages, strings.Repeat("x", 2*size))
	if got, ok := copyText(uint32(os.Getpid()), at(size, "x")); ok {
		t.Errorf("%d bytes of no path", len(got))
	}
	if _, ok := copyText(uint32(os.Getpid()), 8); ok {
		t.Error("nothing is there")
	}
}
