// Package ktest is what tests of kernel objects share: a test binary that
// leaves a descriptor, a child or a goroutine behind fails, and a skip is a
// claim that CI does not accept.
//
//	func TestMain(m *testing.M) { ktest.Main(m) }
package ktest

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Main runs the tests and then exits: with 1 also when every test passed but a
// descriptor, a child process or a goroutine is left that was not there before.
func Main(m *testing.M) {
	before := listDescriptors()
	code := m.Run()
	if code == 0 && !isFuzzing() {
		if left := awaitSettled(before); left != "" {
			fmt.Fprintf(os.Stderr, "left behind by the tests:\n%s", left)
			code = 1
		}
	}
	os.Exit(code)
}

// Parallel has n times as many parallel tests run at once as there are processors, unless
// the flag -parallel says how many: for tests that wait most of their time. TestMain calls it
// before [Main].
func Parallel(n int) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", strconv.Itoa(n*runtime.GOMAXPROCS(0)))
	}
}

// fuzzing: the engine keeps workers and a signal goroutine of its own.
func isFuzzing() bool {
	pattern, worker := flag.Lookup("test.fuzz"), flag.Lookup("test.fuzzworker")
	return pattern != nil && pattern.Value.String() != "" || worker != nil && worker.Value.String() == "true"
}

// Skip skips the test with the reason, or fails it where CI=true: there a
// missing prerequisite is a failure.
func Skip(tb testing.TB, format string, args ...any) {
	tb.Helper()
	if os.Getenv("CI") == "true" {
		tb.Fatalf("missing prerequisite: "+format, args...)
	}
	tb.Skipf(format, args...)
}

// Hang blocks a helper process for good. With select {} a program without C in it
// is ended by the runtime, which takes it for a deadlock.
func Hang() {
	for {
		_, _ = unix.Ppoll(nil, nil, nil)
	}
}

// Filters skips the test, in CI too, where test/run.sh has found that this kernel
// attaches no BPF filter to anything any more, so that a test that tries (a
// container's seccomp profile, a socket's packet filter) would never return, and
// could not be killed. It names what it saw, and only a reboot helps.
func Filters(tb testing.TB) {
	tb.Helper()
	if stuck := os.Getenv("KERNEL_FILTERS_STUCK"); stuck != "" {
		tb.Skipf("this kernel's BPF allocator is stuck, reboot: %s", stuck)
	}
}

// OldKernel skips the test, in CI too, where this kernel is itself older than the program
// oldkernel is to make it seem with lacks.
func OldKernel(tb testing.TB, program, lacks string) {
	tb.Helper()
	if lacks == "" {
		return
	}
	if out, err := exec.Command(program, lacks, "/bin/true").CombinedOutput(); err != nil {
		tb.Skipf("%s: %v: %s", lacks, err, out)
	}
}

// awaitSettled waits a moment for what is on its way out and returns what stays.
func awaitSettled(before map[string]string) string {
	deadline := time.Now().Add(time.Minute)
	for {
		left := findLeftovers(before)
		if left == "" || time.Now().After(deadline) {
			return left
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func findLeftovers(before map[string]string) string {
	var b strings.Builder
	now := listDescriptors()
	fds := make([]string, 0, len(now))
	for fd := range now {
		fds = append(fds, fd)
	}
	sort.Strings(fds)
	for _, fd := range fds {
		target := now[fd]
		// The runtime opens its epoll and its wake-up descriptor once and keeps
		// them; they are not ours.
		if before[fd] == target || strings.HasPrefix(target, "anon_inode:[eventpoll]") || strings.HasPrefix(target, "anon_inode:[eventfd]") {
			continue
		}
		fmt.Fprintf(&b, "  fd %s: %s%s\n", fd, target, boundSockets(fd))
	}
	for _, child := range listChildren() {
		fmt.Fprintf(&b, "  child %s\n", child)
	}
	if n := runtime.NumGoroutine(); n > 1 {
		fmt.Fprintf(&b, "  %d goroutines:\n", n)
		_ = pprof.Lookup("goroutine").WriteTo(&b, 1)
	}
	return b.String()
}

// boundSockets tells the address of a socket, which mostly tells who opened it.
func boundSockets(fd string) string {
	number, err := strconv.Atoi(fd)
	if err != nil {
		return ""
	}
	address, _ := unix.Getsockname(number) // nil: not a socket
	switch at := address.(type) {
	case *unix.SockaddrInet4:
		return fmt.Sprintf(" at %v:%d", netip.AddrFrom4(at.Addr), at.Port)
	case *unix.SockaddrInet6:
		return fmt.Sprintf(" at [%v]:%d", netip.AddrFrom16(at.Addr), at.Port)
	case *unix.SockaddrUnix:
		return fmt.Sprintf(" at %q", at.Name)
	}
	return ""
}

func listDescriptors() map[string]string {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	fds := make(map[string]string, len(entries))
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name())); err == nil {
			fds[e.Name()] = target
		}
	}
	return fds
}

// listChildren lists our children, zombies too, as "pid (comm) state".
func listChildren() []string {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		panic(err)
	}
	var found []string
	self := fmt.Sprint(os.Getpid())
	for _, path := range stats {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		text := string(data)
		end := strings.LastIndexByte(text, ')')
		fields := strings.Fields(text[end+1:])
		if len(fields) > 1 && fields[1] == self {
			found = append(found, text[:end+1]+" "+fields[0])
		}
	}
	return found
}
