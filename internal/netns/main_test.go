package netns

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
	"activator/internal/spec"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "program" {
		program()
	}
	// A program that is built for the race detector else sleeps a second at exit.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	ktest.Main(m)
}

// program listens where it is told to, a line each, and says "listens" or why not;
// it greets everybody with the address it sees. "away" closes the last listener.
func program() {
	lo, err := unix.NewIfreq("lo")
	fd, _ := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err == nil {
		lo.SetUint16(unix.IFF_UP)
		err = unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
	}
	fmt.Println("up", err)
	var last net.Listener
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		network, addr, _ := strings.Cut(in.Text(), " ")
		if network == "away" {
			_ = last.Close()
			fmt.Println("closed")
			continue
		}
		if text := datagrams(network, addr); text != "" {
			fmt.Println(text)
			continue
		}
		l, err := net.Listen(network, addr)
		if err != nil {
			fmt.Println(err)
			continue
		}
		last = l
		fmt.Println("listens")
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintln(c, c.RemoteAddr())
				_ = c.Close()
			}
		}()
	}
	os.Exit(0)
}

// silent are sockets that are read when it is said.
var silent = map[string]net.PacketConn{}

// datagrams is program's part for UDP: what to say, "" if it is none of that.
func datagrams(network, addr string) string {
	switch network {
	case "udp", "udp4", "udp6":
		c, err := net.ListenPacket(network, addr)
		if err != nil {
			return err.Error()
		}
		go func() {
			for buf := make([]byte, 100); ; {
				_, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = c.WriteTo([]byte(from.String()), from)
			}
		}()
	case "silent":
		c, err := net.ListenPacket("udp4", addr)
		if err != nil {
			return err.Error()
		}
		silent[addr] = c
	case "read":
		_, _, _ = silent[addr].ReadFrom(make([]byte, 1000))
		return "hello"
	case "gone":
		_ = silent[addr].Close()
		return "closed"
	default:
		return ""
	}
	return "listens"
}

// inmate is a program in a network of its own.
type inmate struct {
	t   testing.TB
	pid int
	in  io.Writer
	out *bufio.Reader
}

func newInmate(t testing.TB) *inmate {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "program")
	cmd.Stderr = os.Stderr
	// Who is not root in there has no capability after execve, and lo must be brought up.
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWPID,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_NET_ADMIN},
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		ktest.Skip(t, "no user namespaces: %v", err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	i := &inmate{t, cmd.Process.Pid, in, bufio.NewReader(out)}
	if line, err := i.out.ReadString('\n'); line != "up <nil>\n" {
		t.Fatalf("the program says %q: %v", line, err)
	}
	return i
}

// told tells it a line and wants an answer.
func (i *inmate) told(line, want string) {
	i.t.Helper()
	fmt.Fprintln(i.in, line)
	if got, err := i.out.ReadString('\n'); got != want+"\n" {
		i.t.Fatalf("told %q it says %q, want %q: %v", line, got, want, err)
	}
}

func open(t testing.TB, pid int) *Program {
	t.Helper()
	r, err := OpenProgram(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	if err := r.ReadIdentity(pid); err != nil {
		t.Fatal(err)
	}
	return r
}

func target(t testing.TB, r *Program, a spec.Address, own bool) *Target {
	d := r.NewTarget(a, Options{OwnAddress: own})
	t.Cleanup(d.Close)
	return d
}

// greeting dials as from and returns whom the program sees.
func greeting(t testing.TB, d *Target, from string) string {
	t.Helper()
	var client = addrPort(from)
	fd, err := d.Dial(client)
	if err != nil {
		t.Errorf("as %s: %v", from, err)
		return ""
	}
	f := os.NewFile(uintptr(fd), "dialed")
	defer f.Close()
	got, err := io.ReadAll(f)
	if err != nil {
		t.Error(err)
	}
	return strings.TrimSpace(string(got))
}
