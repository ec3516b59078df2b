package stand

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

// World is where everything of a run happens.
type World struct {
	Ctx    context.Context
	Dir    string  // every user may read it
	Other  *Person // an ordinary user beside root; nil: there is none
	whyNot string  // why Other is nil

	mu        sync.Mutex
	processes []*Process
	folders   int
	memory    []string
}

// Person is the user that runs a program. A nil one is the user that runs us.
type Person struct {
	Name string
	UID  uint32
	GID  uint32
	Home string
}

// Self is the user that runs us.
var Self *Person

// Open makes a folder that every user can read, with copies of the programs: the
// ordinary user may not be able to enter the checkout.
func Open(ctx context.Context, bin string) (*World, error) {
	dir, err := os.MkdirTemp("", "actbench")
	if err != nil {
		return nil, err
	}
	w := &World{Ctx: ctx, Dir: dir}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	for _, name := range []string{"activator", "echo"} {
		if err := copyProgram(filepath.Join(bin, name), w.Program(name)); err != nil {
			return nil, fmt.Errorf("%w: build it first: make", err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if err := copyProgram(self, w.Program("bench")); err != nil {
		return nil, err
	}
	w.Other, err = other()
	if err != nil {
		w.whyNot = err.Error()
	}
	return w, nil
}

// other is the ordinary user, $TEST_USER or tester, if we are root.
func other() (*Person, error) {
	if os.Getuid() != 0 {
		return nil, errors.New("this run is an ordinary user's itself")
	}
	name := os.Getenv("TEST_USER")
	if name == "" {
		name = "tester"
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &Person{Name: name, UID: uint32(uid), GID: uint32(gid), Home: u.HomeDir}, nil
}

// AsUser returns an ordinary user: another one, or our own.
func (w *World) AsUser() (*Person, error) {
	if os.Getuid() != 0 {
		return Self, nil
	}
	if w.Other == nil {
		return nil, errors.New(w.whyNot)
	}
	return w.Other, nil
}

// AsRoot returns root, if that is what we are.
func AsRoot() (*Person, error) {
	if os.Getuid() != 0 {
		return nil, errors.New("needs root")
	}
	return Self, nil
}

// Program is the path of one of our programs.
func (w *World) Program(name string) string { return filepath.Join(w.Dir, name) }

// Find looks a peer's program up, also where only root's PATH leads.
func Find(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/lib/systemd", "/lib/systemd"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed", name)
}

// Folder makes a folder of as's own.
func (w *World) Folder(as *Person) (string, error) {
	w.mu.Lock()
	w.folders++
	dir := filepath.Join(w.Dir, strconv.Itoa(w.folders))
	w.mu.Unlock()
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	if as != nil {
		return dir, os.Chown(dir, int(as.UID), int(as.GID))
	}
	return dir, nil
}

// Close ends every process that is left, and removes the folder.
func (w *World) Close() {
	w.mu.Lock()
	processes := w.processes
	w.mu.Unlock()
	for i := len(processes) - 1; i >= 0; i-- {
		processes[i].Stop()
	}
	for _, dir := range append(w.memory, w.Dir) {
		_ = os.RemoveAll(dir)
	}
}

// MemoryFolder makes a folder of ours in memory, as /run is on most hosts: where
// thousands of nodes are made and removed again, ext4 searches longer and longer.
func (w *World) MemoryFolder() (string, error) {
	dir, err := os.MkdirTemp("/dev/shm", "activator-bench-")
	if err != nil {
		return w.Folder(nil)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.memory = append(w.memory, dir)
	return dir, nil
}

func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// ports are handed out below the range that the kernel takes clients' ports from
// (32768 and up), each once: a new socket never meets the rest of an old one.
var ports = struct {
	sync.Mutex
	next int
}{next: 12000}

// Port returns a port of 127.0.0.1 and [::1] that is free for TCP and UDP.
func Port() int { return Ports(1) }

// Ports returns the first of n such ports in a row.
func Ports(n int) int {
	ports.Lock()
	defer ports.Unlock()
	for {
		first := ports.next
		if first+n > 32768 {
			first, ports.next = 12000, 12000
		}
		ports.next += n
		taken := false
		for p := first; p < first+n && !taken; p++ {
			taken = !free(p)
		}
		if !taken {
			return first
		}
	}
}

func free(port int) bool {
	for _, host := range []string{"127.0.0.1", "::1"} {
		at := net.JoinHostPort(host, strconv.Itoa(port))
		l, err := net.Listen("tcp", at)
		if err != nil && !errors.Is(err, syscall.EADDRNOTAVAIL) {
			return false
		}
		if err == nil {
			l.Close()
		}
		p, err := net.ListenPacket("udp", at)
		if err != nil && !errors.Is(err, syscall.EADDRNOTAVAIL) {
			return false
		}
		if err == nil {
			p.Close()
		}
	}
	return true
}
