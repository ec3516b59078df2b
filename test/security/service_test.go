package security

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/fdpass"
)

// modeVariable makes the test's binary the service, or a child of it.
const modeVariable = "ACTIVATOR_SECURITY_MODE"

// request is what the test tells the service: which addresses to reach for, and what to
// look for.
type request struct {
	TCP, UDP string   // sockets of the host's network that the test holds
	Files    []string // of the host, that only it should see
	Key      int      // of a System V shared memory to make
}

// seen is what a service finds out about itself. A call's answer is the name of
// its errno, "" for success.
type seen struct {
	Status      map[string]string // /proc/self/status
	Namespaces  map[string]string
	UIDs, GIDs  string // the maps of the user namespace
	Mounts      string // /proc/self/mountinfo
	Environment []string
	Interfaces  []string
	Processes   []string // of another pid namespace than ours
	Calls       map[string]string
	Families    map[int]string
	Clones      map[string]string // by namespace, clone(2) with a user namespace of its own
	Unshares    map[string]string
	Realtime    map[string]string
	Personality string
	WriteExec   map[string]string // ways to memory that is writable and then executable
	SetID       []string          // ways to a SUID or SGID file that worked
	Program32   string            // what became of a program for the 32-bit machine
	X32         string
	Devices     []string // nodes below /dev
	Mknod       string
	Terminal    string            // opening the controlling terminal
	Kernel      map[string]string // reading the kernel's files
	Tunables    []string          // files of /proc that can be written
	Homes       []string          // what lies in them
	Modules     []string
	Files       []string // those of the request that are there
	Local       string   // a socket of our own to loopback
	SharedMem   string
}

// serve is what the test's own binary does as the service: one connection asks,
// a second one is there to be turned.
func serve() {
	if os.Getenv(modeVariable) == "filtered" {
		if err := filterOurselves(); err != nil {
			die(err)
		}
	}
	var ask request
	conns, sockets := accept()
	lines := bufio.NewReader(conns[0])
	if err := json.NewDecoder(lines).Decode(&ask); err != nil {
		die(err)
	}
	found := look(ask)
	turn(conns[1], sockets, ask)
	if err := json.NewEncoder(conns[0]).Encode(found); err != nil {
		die(err)
	}
	_, _ = conns[0].Read(make([]byte, 1)) // until the test has looked at us from outside
	os.Exit(0)
}

func die(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// accept returns two connections, and the sockets: a listener and a datagram one.
func accept() ([]net.Conn, []fdpass.Inherited) {
	inherited, err := fdpass.ReceiveInherited()
	if err != nil {
		die(err)
	}
	listener, err := net.FileListener(inherited[0].File)
	if err != nil {
		die(err)
	}
	var conns []net.Conn
	for range 2 {
		c, err := listener.Accept()
		if err != nil {
			die(err)
		}
		conns = append(conns, c)
	}
	return conns, inherited
}

func look(ask request) seen {
	s := seen{Status: status("self"), Namespaces: namespaces("self"), Environment: os.Environ()}
	s.UIDs, s.GIDs, s.Mounts = text("/proc/self/uid_map"), text("/proc/self/gid_map"), text("/proc/self/mountinfo")
	for line := range strings.Lines(text("/proc/self/net/dev")) {
		if of, _, ok := strings.Cut(line, ":"); ok {
			s.Interfaces = append(s.Interfaces, strings.TrimSpace(of))
		}
	}
	s.files(ask)
	s.Calls, s.Families = try(), families()
	s.Clones, s.Unshares = clones(), onThread(unshares)
	s.Realtime, s.WriteExec = onThread(realtime), writeExec()
	s.Personality = onThread(personality)["PER_LINUX32"]
	s.Program32, s.X32 = program32(), x32()
	s.Local = local()
	id, err := unix.SysvShmGet(ask.Key, 4096, unix.IPC_CREAT|0o600)
	if s.SharedMem = name(err); err == nil && os.Getenv(modeVariable) != "service" {
		_, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil)
	}
	return s
}

// name is the symbol of an errno, "" of none.
func name(err error) string {
	errno, ok := err.(syscall.Errno)
	switch {
	case err == nil || ok && errno == 0:
		return ""
	case ok:
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

func text(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

func status(pid string) map[string]string {
	fields := map[string]string{}
	for line := range strings.Lines(text("/proc/" + pid + "/status")) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		fields[key] = strings.TrimSpace(value)
	}
	return fields
}

func namespaces(pid string) map[string]string {
	found := map[string]string{}
	for _, kind := range []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"} {
		found[kind], _ = os.Readlink("/proc/" + pid + "/ns/" + kind)
	}
	return found
}

// onThread runs f on a thread that ends with it, whatever f has made of it.
func onThread(f func() map[string]string) map[string]string {
	answer := make(chan map[string]string)
	go func() {
		runtime.LockOSThread() // never unlocked
		answer <- f()
	}()
	return <-answer
}

// families tries to make a socket of every family, at first of a type that does
// not exist: the kernel says EINVAL to it before it looks for the family, so that
// any other answer is a filter's (__sock_create in net/socket.c).
func families() map[int]string {
	const noSuchType = 14
	found := map[int]string{}
	for family := 1; family < unix.AF_MAX; family++ {
		_, err := unix.Socket(family, noSuchType, 0)
		found[family] = name(err)
	}
	// A filter may know types too, so the common families are tried in earnest. The
	// others are not: that would make an unfiltered kernel load their modules.
	for _, family := range []int{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK, unix.AF_PACKET} {
		for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_RAW, unix.SOCK_SEQPACKET} {
			if fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0); err == nil {
				unix.Close(fd)
				found[family] = ""
			}
		}
	}
	return found
}

var kinds = map[string]uintptr{"cgroup": unix.CLONE_NEWCGROUP, "ipc": unix.CLONE_NEWIPC, "mnt": unix.CLONE_NEWNS,
	"net": unix.CLONE_NEWNET, "pid": unix.CLONE_NEWPID, "user": unix.CLONE_NEWUSER, "uts": unix.CLONE_NEWUTS}

// clones starts a child of ours, that ends at once, in each kind of namespace;
// a user namespace comes along and brings the right to have the other.
func clones() map[string]string {
	found := map[string]string{}
	for kind, flag := range kinds {
		child := exec.Command("/proc/self/exe")
		child.Env = []string{modeVariable + "=nothing", "GORACE=atexit_sleep_ms=0"}
		child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flag | unix.CLONE_NEWUSER}
		err := child.Start()
		if err == nil {
			_ = child.Wait()
		}
		if refused, ok := err.(*os.PathError); ok {
			err = refused.Err
		}
		found[kind] = name(err)
	}
	return found
}

func unshares() map[string]string {
	found := map[string]string{}
	for kind, flag := range kinds {
		found[kind] = name(unix.Unshare(int(flag)))
	}
	return found
}

func realtime() map[string]string {
	found := map[string]string{}
	for policy, number := range map[string]uint32{"FIFO": unix.SCHED_FIFO, "RR": unix.SCHED_RR} {
		attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: number, Priority: 1}
		found[policy] = name(unix.SchedSetAttr(0, &attr, 0))
		_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr}, 0)
	}
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_DEADLINE, Runtime: 1 << 20, Deadline: 1 << 26, Period: 1 << 26}
	found["DEADLINE"] = name(unix.SchedSetAttr(0, &attr, 0))
	return found
}

func personality() map[string]string {
	const linux32 = 8 // PER_LINUX32
	_, _, errno := syscall.RawSyscall(unix.SYS_PERSONALITY, linux32, 0, 0)
	return map[string]string{"PER_LINUX32": name(errno)}
}

func writeExec() map[string]string {
	const all = unix.PROT_READ | unix.PROT_WRITE | unix.PROT_EXEC
	found := map[string]string{}
	both, err := unix.Mmap(-1, 0, 4096, all, unix.MAP_PRIVATE|unix.MAP_ANON)
	if found["mmap"] = name(err); err == nil {
		_ = unix.Munmap(both)
	}
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err == nil {
		err = unix.Mprotect(page, unix.PROT_READ|unix.PROT_EXEC)
		_ = unix.Munmap(page)
	}
	found["mprotect"] = name(err)
	return found
}

// local reaches for loopback with sockets of our own.
func local() string {
	to := &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "socket: " + name(err)
	}
	defer unix.Close(fd)
	return name(unix.Sendto(fd, []byte("local"), 0, to))
}

func (s *seen) files(ask request) {
	_ = filepath.WalkDir("/dev", func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		// What is mounted on a file is not what the folder says of it.
		if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeDevice != 0 {
			s.Devices = append(s.Devices, path)
		}
		return nil
	})
	s.Terminal = opened("/dev/tty", unix.O_RDWR)
	s.Kernel = map[string]string{}
	for _, path := range []string{"/dev/kmsg", "/dev/mem", "/dev/port", "/dev/rtc0", "/proc/kcore", "/proc/kmsg", "/sys/kernel"} {
		s.Kernel[path] = opened(path, unix.O_RDONLY)
	}
	s.Kernel["address in /proc/kallsyms"] = kernelAddress()
	s.Tunables = tunables()
	for _, home := range []string{"/home", "/root", "/run/user"} {
		s.Homes = append(s.Homes, inside(home)...)
	}
	s.Modules = append(inside("/usr/lib/modules"), inside("/lib/modules")...)
	for _, path := range ask.Files {
		if _, err := os.Stat(path); err == nil {
			s.Files = append(s.Files, path)
		}
	}
	own := s.Namespaces["pid"]
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range processes {
		if theirs, err := os.Readlink(p + "/ns/pid"); (err != nil || theirs != own) && !gone(p) {
			s.Processes = append(s.Processes, p)
		}
	}
	s.setID()
}

func gone(process string) bool {
	_, err := os.Stat(process)
	return err != nil
}

func opened(path string, flags int) string {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err == nil {
		_ = unix.Close(fd)
	}
	return name(err)
}

func inside(folder string) []string {
	entries, _ := os.ReadDir(folder)
	var found []string
	for _, e := range entries {
		found = append(found, filepath.Join(folder, e.Name()))
	}
	return found
}

// kernelAddress is "" if /proc/kallsyms tells one.
func kernelAddress() string {
	f, err := os.Open("/proc/kallsyms")
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if strings.Trim(strings.Fields(lines.Text())[0], "0") != "" {
			return ""
		}
	}
	return "all are 0"
}

// tunables lists the kernel's own files of /proc that can be written. One that
// every user may open is written what it says; the others need no more than to be
// opened to count.
func tunables() []string {
	var found []string
	visit := func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return nil
		}
		defer unix.Close(fd)
		if info, err := d.Info(); err == nil && info.Mode()&2 != 0 {
			if _, err := unix.Write(fd, []byte(text(path))); err != nil {
				return nil
			}
		}
		found = append(found, path)
		return nil
	}
	for _, top := range []string{"sys", "sysrq-trigger", "latency_stats", "acpi", "timer_stats", "fs", "irq", "bus", "mtrr", "asound", "scsi"} {
		_ = filepath.WalkDir("/proc/"+top, visit)
	}
	return found
}
