package process

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
	"activator/internal/sandbox"
	"activator/internal/spec"
)

// peek prints what of the host's may have come along.
func peek() {
	var core unix.Rlimit
	_ = unix.Getrlimit(unix.RLIMIT_CORE, &core)
	fmt.Println("core", core.Cur, core.Max)
	fmt.Println("keyring", sessionKeyring())
	_, err := os.Stat("/sys")
	fmt.Println("sys", errors.Is(err, os.ErrNotExist))
}

// sessionKeyring is its serial number, 0 where there is none.
func sessionKeyring() int {
	id, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
	if err != nil {
		return 0
	}
	return id
}

func TestNothingOfTheHostComesAlong(t *testing.T) {
	ktest.Filters(t)
	var mine unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &mine); err != nil {
		t.Fatal(err)
	}
	core := min(1, mine.Max)
	for _, syscalls := range []string{"default", "any"} {
		process := helperSpec("peek")
		process.Sandbox.Syscalls = syscalls
		out, _ := start(t, process).end(t)
		var keyring int
		if _, err := fmt.Sscanf(out[strings.Index(out, "keyring"):], "keyring %d", &keyring); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if outside := sessionKeyring(); outside != 0 && keyring == outside || (syscalls == "any") != (keyring != 0) && outside != 0 {
			t.Errorf("%s: keyring %d, outside %d", syscalls, keyring, outside)
		}
		if want := fmt.Sprintf("core %d %d\nkeyring %d\nsys true\n", core, core, keyring); out != want {
			t.Errorf("%s: got %s, want %s", syscalls, out, want)
		}
	}
	process := helperSpec("peek")
	process.Limits = []spec.Limit{{Resource: "core", Soft: 0, Hard: 0}}
	if out, _ := start(t, process).end(t); !strings.HasPrefix(out, "core 0 0\n") {
		t.Errorf("%s", out)
	}
}

// The filter is on every thread of the reaper.
func TestReaperIsBehindTheFilter(t *testing.T) {
	ktest.Filters(t)
	process := helperSpec("sleep")
	process.Sandbox.Init = true
	s := start(t, process)
	s.line(t)
	tasks, err := filepath.Glob("/proc/" + itoa(s.Pid()) + "/task/*/status")
	if err != nil || len(tasks) < 2 {
		t.Fatalf("%q, %v", tasks, err)
	}
	for _, task := range tasks {
		data, err := os.ReadFile(task)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(data), "\nSeccomp:\t2\n") || !strings.Contains(string(data), "\nNoNewPrivs:\t1\n") {
			t.Errorf("%s:\n%s", task, data)
		}
	}
}

// throughFolder tries what a folder of the host, which somebody left open or a client
// passed in, still gives, and a device without a driver, which anybody may make.
func throughFolder() {
	const folder = 3
	fd, err := unix.Openat(folder, "file", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err == nil {
		_ = unix.Close(fd)
	}
	fmt.Println("create", err)
	fd, err = unix.Openat(folder, "secret", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		_ = unix.Close(fd)
	}
	fmt.Println("read", err)
	fmt.Println("device", unix.Mknod("/tmp/device", unix.S_IFCHR, 0)) // a whiteout, mknod(2)
	fmt.Println("own", os.WriteFile("/tmp/file", nil, 0o600))
}

// Landlock is a restriction of its own: it holds where no mount does.
func TestFilesBehindLandlock(t *testing.T) {
	if sandbox.RunningKernel().Landlock < 2 {
		ktest.Skip(t, "no Landlock for files")
	}
	ktest.Filters(t)
	dir := shared(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/secret", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	folder, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	for _, tt := range []struct {
		syscalls  string
		unmounted bool // said by who knows that there may be such folders
		want      string
	}{
		{"any", true, "create <nil>\nread <nil>\ndevice <nil>\nown <nil>\n"},
		{"default", false, "create permission denied\nread <nil>\ndevice permission denied\nown <nil>\n"},
		{"default", true, "create permission denied\nread permission denied\ndevice permission denied\nown <nil>\n"},
	} {
		process := helperSpec("through")
		process.FDNames = []string{"folder"}
		process.Sandbox.Syscalls, process.Sandbox.Unmounted = tt.syscalls, tt.unmounted
		if out, _ := start(t, process, folder).end(t); out != tt.want {
			t.Errorf("%s, %v: %s", tt.syscalls, tt.unmounted, out)
		}
		_ = os.Remove(dir + "/file")
	}
}

// A pipe that is lent as stdout can be opened anew to write more: it is its user's. A
// FIFO that has a name is the host's, and stays its owner's.
func TestStdoutOpenedAnew(t *testing.T) {
	ktest.Filters(t)
	const script = `echo mine; echo anew > /dev/stdout`
	if out, exit := start(t, sandboxed("/bin/sh", "-c", script)).end(t); out != "mine\nanew\n" || !exit.OK() {
		t.Errorf("%v: %q", exit, out)
	}
	path := shared(t) + "/fifo"
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	fifo, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer fifo.Close()
	s := starterFor()
	defer s.Close()
	p, err := s.Prepare(t.Context(), sandboxed("/bin/sh", "-c", "exit"), Inputs{Stdio: Stdio{Out: fifo, Err: fifo}})
	if err == nil {
		err = p.Go(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := p.Wait(); err != nil || exit.Signal != 0 {
		t.Errorf("%v, %v", exit, err)
	}
	_ = p.Close()
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil || int(stat.Uid) != os.Geteuid() {
		t.Errorf("the FIFO is %d's, %v", stat.Uid, err)
	}
}

// With all system calls a service can make a user namespace and be root in it; but
// what is mounted then belongs to another one, and is locked (mount_namespaces(7)).
func TestMountsAreLocked(t *testing.T) {
	ktest.Filters(t)
	script := `for path in /usr /etc /tmp /proc /dev/null /run; do umount $path 2>/dev/null && echo unmounted $path; done
mount -o remount,bind,rw /usr 2>/dev/null && echo writable
mount -t tmpfs none /tmp && mount --bind /usr /tmp && echo mounts`
	process := sandboxed(findProgram(t, "/usr/bin/unshare"), "--user", "--map-root-user", "--mount", "sh", "-c", script)
	process.Sandbox.Syscalls = "any"
	// Its own mounts work, so that the refusals mean something.
	if out, exit := start(t, process).end(t); out != "mounts\n" {
		t.Errorf("%v: %s", exit, out)
	}
	process.Sandbox.Syscalls = "default"
	if out, exit := start(t, process).end(t); exit.OK() || strings.Contains(out, "mount") {
		t.Errorf("%v: %s", exit, out)
	}
}

// The signal scope ends at the sandbox, not within: children can be killed, and
// the activator stops the service (every other test does).
func TestChildrenCanBeSignalled(t *testing.T) {
	ktest.Filters(t)
	for _, init := range []bool{false, true} {
		process := sandboxed("/bin/sh", "-c", "sleep 1000 & kill -TERM $!; wait $!; echo $?; kill -0 $$ && echo self")
		process.Sandbox.Init = init
		out, _ := start(t, process).end(t)
		if lines := strings.Fields(out); !slices.Contains(lines, "143") || !slices.Contains(lines, "self") {
			t.Errorf("init %v: %s", init, out)
		}
	}
}

// What a program reads of interfaces still works, by netlink.
func TestInterfacesAreListed(t *testing.T) {
	ktest.Filters(t)
	process := helperSpec("view")
	process.Sandbox = strict
	if v := start(t, process).view(t); len(v.Interfaces) != 1 || !strings.HasPrefix(v.Interfaces[0], "lo true [127.0.0.1/8") {
		t.Errorf("%q", v.Interfaces)
	}
}

// foreign is a 32-bit program: exit(7), and if that call does not exist, an
// illegal instruction.
func foreign() []byte {
	code := []byte{0xb8, 1, 0, 0, 0, 0xbb, 7, 0, 0, 0, 0xcd, 0x80, 0x0f, 0x0b} // mov $1, %eax; mov $7, %ebx; int $0x80; ud2
	const base, header, segment = 0x10000, 52, 32
	le := binary.LittleEndian
	elf := append([]byte("\x7fELF\x01\x01\x01"), make([]byte, 9)...)
	for _, half := range []uint16{2, 3} { // executable, for the 80386
		elf = le.AppendUint16(elf, half)
	}
	for _, word := range []uint32{1, base + header + segment, header, 0, 0} { // version, entry, segments, sections, flags
		elf = le.AppendUint32(elf, word)
	}
	for _, half := range []uint16{header, segment, 1, 0, 0, 0} {
		elf = le.AppendUint16(elf, half)
	}
	size := uint32(header + segment + len(code))
	for _, word := range []uint32{1, 0, base, base, size, size, 5, 0x1000} { // PT_LOAD, readable and executable
		elf = le.AppendUint32(elf, word)
	}
	return append(elf, code...)
}

// No other machine's system calls exist, whose numbers mean something else.
func TestForeignMachine(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("a program of the 80386")
	}
	ktest.Filters(t)
	process := sandboxed(write(t, shared(t)+"/foreign", string(foreign()), 0o755))
	process.Sandbox = spec.Sandbox{Syscalls: "any", Connect: "any"}
	s, err := prepare(t, process)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Go(t.Context()); errors.Is(err, unix.ENOEXEC) {
		t.Skip("this kernel runs no 32-bit programs")
	} else if err != nil {
		t.Fatal(err)
	}
	ends := unix.SIGILL
	if _, exit := s.end(t); exit.Signal == unix.SIGSEGV {
		ends = unix.SIGSEGV
		t.Logf("without a filter: %v: int $0x80 faults on this machine", exit)
	} else if exit.Code != 7 {
		t.Errorf("without a filter: %v", exit)
	}
	for _, box := range []spec.Sandbox{{}, {Syscalls: "any"}, {Syscalls: "any", Connect: "any", Seal: true}} {
		process.Sandbox = box
		if _, exit := start(t, process).end(t); exit.Signal != ends {
			t.Errorf("%+v: %v", box, exit)
		}
	}
}

// A child that waits has our memory. Where it has become another user, that one's
// processes outside see nothing of it.
func TestNobodyLooksIntoAChild(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("an ordinary user's processes can look into the activator itself")
		return
	}
	const user = 61999
	process := helperSpec("view")
	process.User = strconv.Itoa(user)
	s, err := prepare(t, process)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for _, name := range []string{"maps", "mem", "environ", "cwd/", "fd/"} {
		path := fmt.Sprintf("/proc/%d/%s", s.Pid(), name)
		cmd := exec.Command("ls", path)
		if !strings.HasSuffix(name, "/") {
			cmd = exec.Command("head", "-c1", path)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
		if out, err := cmd.CombinedOutput(); err == nil || !bytes.Contains(out, []byte("ermission denied")) {
			t.Errorf("%s: %v, %s", path, err, out)
		}
	}
}
