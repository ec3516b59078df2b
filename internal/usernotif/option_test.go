package usernotif

import (
	"encoding/binary"
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
		"hops of the connection": func() error { return unix.SetsockoptInt(fdAccepted, unix.IPPROTO_IP, unix.IP_TTL, 1) },
		"hops of the listener":   func() error { return unix.SetsockoptInt(fdListener, unix.IPPROTO_IP, unix.IP_TTL, 1) },
		"group of an own socket": func() error { return joinGroup(unix.IP_ADD_MEMBERSHIP) },
		"group and more of it":   func() error { return joinGroup(unix.MCAST_JOIN_GROUP) },
		"filter of an own socket": func() error {
			all := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
			return unix.SetsockoptSockFprog(stream(unix.AF_INET), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &all[0]})
		},
		"size of a changing socket": changeMeanwhile,
		"option that there is not":  func() error { return unix.SetsockoptInt(fdAccepted, unix.SOL_SOCKET, 9999, 1) },
		"option without memory":     func() error { return rawOption(16, 4) },
		"option of no length":       func() error { return rawOption(16, 0) },
		"option of less than none":  func() error { return rawOption(16, -1) },
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

// joinGroup joins 239.1.1.1 at lo, by whichever option.
func joinGroup(option int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	group := [4]byte{239, 1, 1, 1}
	if option == unix.IP_ADD_MEMBERSHIP {
		return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, option, &unix.IPMreqn{Multiaddr: group, Ifindex: 1})
	}
	request := make([]byte, 136) // struct group_req, ip(7)
	binary.NativeEndian.PutUint32(request, 1)
	binary.NativeEndian.PutUint16(request[8:], unix.AF_INET)
	copy(request[12:], group[:])
	return unix.SetsockoptString(fd, unix.IPPROTO_IP, option, string(request))
}

// changeMeanwhile sets an option on a number that is an own socket and the listener of the host's in turn.
func changeMeanwhile() error {
	own := stream(unix.AF_INET)
	number, err := unix.Dup(own)
	if err != nil {
		return err
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case <-end:
				return
			default:
				_ = unix.Dup3([]int{own, fdListener}[i%2], number, 0)
			}
		}
	}()
	set := 0
	for range 500 {
		if unix.SetsockoptInt(number, unix.SOL_SOCKET, unix.SO_RCVLOWAT, 7) == nil {
			set++
		}
	}
	close(end)
	<-ended
	of, err := unix.GetsockoptInt(fdListener, unix.SOL_SOCKET, unix.SO_RCVLOWAT)
	if err != nil || of == 7 || set == 0 {
		return fmt.Errorf("%d of 500 set; the listener's is %d: %v", set, of, err)
	}
	return nil
}

func rawOption(at uintptr, length int32) error {
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, fdAccepted, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, at, uintptr(length), 0)
	return errno
}

// An option that is handed over is set, but for the listener of the host's; what no socket of the host's may
// have, on an own one.
func TestSetOption(t *testing.T) {
	s := supervise(t, t.Context(), Policy{IP: true})
	defer s.end()
	for name, want := range map[string]string{
		"option of the listener":    "as before",
		"option of the connection":  "ok",
		"option of an own listener": "ok",
		"option of a unix socket":   "ok",
		"longer option":             "ok",
		"hops of the connection":    "protocol not available",
		"size of a changing socket": "ok",
		"hops of the listener":      "protocol not available",
		"group of an own socket":    "ok",
		"group and more of it":      "ok",
		"filter of an own socket":   "protocol not available",
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
