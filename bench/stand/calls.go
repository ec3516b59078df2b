package stand

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Calls are what the web server of [Serve] can be asked to do by itself, at
// /calls?KEY, to say how many nanoseconds of processor it takes.
var Calls = []struct{ Key, What string }{
	{"getppid", "getppid(2)"},
	{"send", "send(2) and recv(2) of a byte"},
	{"open", "open(2) and close(2) of /etc/passwd"},
}

// The least of so many means of so many calls: what disturbs makes it only longer.
const (
	callMeans  = 25
	callsAMean = 1000
)

// AskCalls asks the server at a TCP port of 127.0.0.1.
func AskCalls(port int, key string) (float64, error) {
	client := http.Client{Timeout: clientTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/calls?%s", port, key))
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, text)
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
}

func serveCalls(w http.ResponseWriter, r *http.Request) {
	nanoseconds, err := timeCalls(r.URL.RawQuery)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintln(w, nanoseconds)
}

// timeCalls makes plain system calls on a thread of its own.
func timeCalls(key string) (nanoseconds float64, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("socketpair: %w", err)
	}
	defer func() { _, _ = unix.Close(pair[0]), unix.Close(pair[1]) }()
	call, err := caller(key, pair)
	if err != nil {
		return 0, err
	}
	least := math.Inf(1)
	for range callMeans {
		begin, err := threadTime()
		if err != nil {
			return 0, err
		}
		for range callsAMean {
			if errno := call(); errno != 0 {
				return 0, fmt.Errorf("%s: %w", key, errno)
			}
		}
		end, err := threadTime()
		if err != nil {
			return 0, err
		}
		least = min(least, float64((end-begin).Nanoseconds())/callsAMean)
	}
	return least, nil
}

func caller(key string, pair [2]int) (func() unix.Errno, error) {
	path, bytes, directory := []byte("/etc/passwd\x00"), []byte{'x'}, unix.AT_FDCWD
	switch key {
	case "getppid":
		return func() unix.Errno {
			_, _, errno := unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)
			return errno
		}, nil
	case "send":
		return func() unix.Errno {
			if _, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(pair[0]), uintptr(unsafe.Pointer(&bytes[0])), 1, unix.MSG_NOSIGNAL, 0, 0); errno != 0 {
				return errno
			}
			_, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(pair[1]), uintptr(unsafe.Pointer(&bytes[0])), 1, 0, 0, 0)
			return errno
		}, nil
	case "open":
		return func() unix.Errno {
			fd, _, errno := unix.RawSyscall6(unix.SYS_OPENAT, uintptr(directory), uintptr(unsafe.Pointer(&path[0])), unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
			if errno != 0 {
				return errno
			}
			_, _, errno = unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
			return errno
		}, nil
	}
	return nil, fmt.Errorf("no call %q", key)
}

// threadTime is how long the thread has been on a processor.
func threadTime() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0, fmt.Errorf("clock_gettime: %w", err)
	}
	return time.Duration(t.Nano()), nil
}
