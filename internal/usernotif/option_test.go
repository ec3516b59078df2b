package usernotif

import (
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	for name, attempt := range map[string]func() error{
		"option of the listener":   func() error { return setBuffer(fdListener) },
		"option of the connection": func() error { return setBuffer(fdAccepted) },
		"option of an own listener": func() error {
			fd := stream(unix.AF_INET)
			defer unix.Close(fd)
			if err := unix.Listen(fd, 5); err != nil {
				return err
			}
			return setBuffer(fd)
		},
		"option of a unix socket": func() error {
			fd := stream(unix.AF_UNIX)
			defer unix.Close(fd)
			return setBuffer(fd)
		},
		"longer option": func() error {
			return unix.SetsockoptString(fdAccepted, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno\x00 and more than the kernel reads")
		},
		"cost of an option": func() error {
			const calls = paceBurst / 2
			start := time.Now()
			for range calls {
				if err := unix.SetsockoptInt(fdAccepted, unix.SOL_SOCKET, unix.SO_SNDBUF, 70000); err != nil {
					return err
				}
			}
			return fmt.Errorf("%d", time.Since(start).Nanoseconds()/calls)
		},
		"option that there is not": func() error { return unix.SetsockoptInt(fdAccepted, unix.SOL_SOCKET, 9999, 1) },
		"option without memory":    func() error { return rawOption(16, 4) },
		"option of no length":      func() error { return rawOption(16, 0) },
		"option of less than none": func() error { return rawOption(16, -1) },
	} {
		attempts[name] = attempt
	}
}

func setBuffer(fd int) error {
	before, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 4608)
	}
	now, readErr := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	switch {
	case err != nil || readErr != nil:
		return fmt.Errorf("%v, %v", err, readErr)
	case now == before:
		return errors.New("as before")
	case now != 2*4608:
		return fmt.Errorf("%d", now)
	}
	return nil
}

func rawOption(at uintptr, length int32) error {
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, fdAccepted, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, at, uintptr(length), 0)
	return errno
}

// An option that is handed over is set, but for the listener of the host's.
func TestSetOption(t *testing.T) {
	s := supervise(t, t.Context(), Policy{IP: true})
	defer s.end()
	for name, want := range map[string]string{
		"option of the listener":    "as before",
		"option of the connection":  "ok",
		"option of an own listener": "ok",
		"option of a unix socket":   "ok",
		"longer option":             "ok",
		"option that there is not":  "protocol not available",
		"option without memory":     "bad address",
		"option of no length":       "invalid argument",
		"option of less than none":  "invalid argument",
	} {
		if got := s.attempt(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// BenchmarkSetOption is what an option costs a service when it is handed over.
func BenchmarkSetOption(b *testing.B) {
	s := supervise(b, b.Context(), Policy{})
	defer s.end()
	var all, runs float64
	for b.Loop() {
		cost, err := strconv.ParseFloat(s.attempt("cost of an option"), 64)
		if err != nil {
			b.Fatal(err)
		}
		all, runs = all+cost, runs+1
	}
	b.ReportMetric(all/runs, "ns/option")
}
