package process

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/kernel/proc"
	"activator/internal/ktest"
)

// helpers are what the test binary is as a service.
var helpers = map[string]func(args []string){
	"view":      func([]string) { view() },
	"exit":      func(args []string) { code, _ := strconv.Atoi(args[0]); os.Exit(code) },
	"sleep":     func([]string) { fmt.Println("ready"); ktest.Hang() },
	"term":      func([]string) { catchTerm() },
	"notify":    func(args []string) { sayReady(args[0]) },
	"fork":      func(args []string) { forkSleeper(args[0]) },
	"touch":     func(args []string) { touch(args) },
	"activator": func(args []string) { beActivator(args) },
	"nested":    func([]string) { nested() },
	"daemon":    func([]string) { leaveDaemon() },
	"intrude":   intrude,
	"peek":      func([]string) { peek() },
	"through":   func([]string) { throughFolder() },
	"forbidden": func([]string) { forbidden() },
	"connect":   func([]string) { connectOnce() },
	"stubborn":  func(args []string) { stubborn(args[0]) },
	"rebel":     func(args []string) { rebel(args[0]) },
	"rebels":    func(args []string) { holdRebels(args) },

	"signals":      func([]string) { showSignals(false) },
	"signals init": func([]string) { showSignals(true) },
}

// helper never returns.
func helper(args []string) {
	helpers[args[0]](args[1:])
	os.Exit(0)
}

// View is what a process sees of the world.
type View struct {
	Pid, UID, GID int
	Host          string
	Status        map[string]string // caps, no_new_privs, groups
	Interfaces    []string
	Routes        int
	Processes     []int
	Files         []string          // open descriptors from 0 on
	Writable      []string          // folders that take a file
	Top           []string          // of /
	Env           map[string]string // without what the test itself needs
	Dir, Umask    string
	NoFile        uint64
}

func look() View {
	v := View{Pid: os.Getpid(), UID: os.Getuid(), GID: os.Getgid(), Status: map[string]string{}, Env: map[string]string{}}
	v.Files = openFiles()
	status, _ := proc.ReadStatus(os.Getpid())
	for _, key := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"} {
		v.Status[key] = status[key]
	}
	v.Umask = status["Umask"]
	v.Host, _ = os.Hostname()
	v.Dir, _ = os.Getwd()
	var limit unix.Rlimit
	_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
	v.NoFile = limit.Max
	interfaces, _ := net.Interfaces()
	for _, i := range interfaces {
		addrs, _ := i.Addrs()
		v.Interfaces = append(v.Interfaces, fmt.Sprint(i.Name, " ", i.Flags&net.FlagUp != 0, " ", addrs))
	}
	routes, _ := os.ReadFile("/proc/net/route")
	v.Routes = max(strings.Count(string(routes), "\n")-1, 0)
	pids, _ := filepath.Glob("/proc/[0-9]*")
	for _, path := range pids {
		pid, _ := strconv.Atoi(filepath.Base(path))
		v.Processes = append(v.Processes, pid)
	}
	v.Writable = writable()
	top, _ := os.ReadDir("/")
	for _, entry := range top {
		v.Top = append(v.Top, entry.Name())
	}
	for _, entry := range os.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		if name != "GORACE" && name != "LISTEN_PIDFDID" {
			v.Env[name] = value
		}
	}
	return v
}

func view() { _ = json.NewEncoder(os.Stdout).Encode(look()) }

// openFiles lists fd numbers, with what sockets are; without what the Go
// runtime opens for itself and the folder being read.
func openFiles() []string {
	entries, _ := os.ReadDir("/proc/self/fd")
	var files []string
	for _, entry := range entries {
		target, err := os.Readlink("/proc/self/fd/" + entry.Name())
		if err != nil || strings.HasPrefix(target, "anon_inode:[event") || strings.Contains(target, "cpu.max") || strings.Contains(target, "cpu.cfs_") {
			continue
		}
		kind, _, _ := strings.Cut(target, ":")
		files = append(files, entry.Name()+" "+kind)
	}
	return files
}

// writable lists the folders, two levels deep, in which a file can be made.
func writable() []string {
	var found []string
	folders, _ := filepath.Glob("/*/*")
	top, _ := filepath.Glob("/*")
	for _, folder := range append(append(folders, top...), "/") {
		info, err := os.Lstat(folder)
		if err != nil || !info.IsDir() || strings.HasPrefix(folder, "/proc") {
			continue
		}
		name := filepath.Join(folder, ".written")
		if f, err := os.Create(name); err == nil {
			_ = f.Close()
			_ = os.Remove(name)
			found = append(found, folder)
		}
	}
	sort.Strings(found)
	return found
}

func catchTerm() {
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGTERM)
	fmt.Println("ready")
	<-caught
	os.Exit(7)
}

func sayReady(text string) {
	// Without connect(2), which is refused.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Sendto(fd, []byte(text), 0, &unix.SockaddrUnix{Name: os.Getenv("NOTIFY_SOCKET")})
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	ktest.Hang()
}

// forkSleeper starts another process of the service, says its number, and waits.
func forkSleeper(kind string) {
	exe, _ := os.Executable()
	child := exec.Command(exe, "helper", kind)
	child.Stdout = os.Stdout
	if err := child.Start(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("child", child.Process.Pid)
	ktest.Hang()
}

// leaveDaemon leaves a process behind, in a session of its own.
func leaveDaemon() {
	exe, _ := os.Executable()
	child := exec.Command(exe, "helper", "sleep")
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := child.Start(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("daemon", child.Process.Pid)
	os.Exit(3)
}

// touch says which of the paths can be read, and which be written.
func touch(paths []string) {
	for _, path := range paths {
		_, err := os.ReadFile(path)
		readable := err == nil
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			_ = f.Close()
		}
		fmt.Println(path, readable, err == nil)
	}
}

// beActivator starts the service args for ever, again and again, with one
// always warm, until it is killed.
func beActivator(args []string) {
	s := starterFor()
	process := helperSpec("sleep")
	process.Sandbox.Init = slices.Contains(args, "init")
	if process.Bare = slices.Contains(args, "bare"); process.Bare && process.Sandbox.Init {
		process.Argv = []string{"sh", "-c", process.Argv[0] + " helper daemon; sleep 1000"}
	}
	fmt.Println("ready")
	for {
		p, err := s.Prepare(context.Background(), process, Inputs{})
		if err == nil {
			err = p.Go(context.Background())
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		if _, err = s.Prepare(context.Background(), process, Inputs{}); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		_ = p.Close()
	}
}

// nested starts a sandbox from where it is, and shows what came of it.
func nested() {
	s := starterFor()
	p, err := s.Prepare(context.Background(), helperSpec("view"), Inputs{Stdio: Stdio{Out: os.Stdout, Err: os.Stderr}})
	if err == nil {
		err = p.Go(context.Background())
	}
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	_, _ = p.Wait()
	os.Exit(0)
}

// starterFor is a starter, which the caller closes.
func starterFor() *Starter {
	s, err := NewStarter()
	if err != nil {
		panic(err)
	}
	return s
}

// children lists our own.
func children() []int {
	self := strconv.Itoa(os.Getpid())
	return slices.DeleteFunc(proc.ListPids(), func(pid int) bool {
		status, err := proc.ReadStatus(pid)
		return err != nil || status["PPid"] != self
	})
}

// awaitEnd waits for the end of a process, by its pidfd.
func awaitEnd(pidfd int, limit time.Duration) error {
	events, err := fd.Poll(pidfd, unix.POLLIN, limit)
	if err == nil && events == 0 {
		err = os.ErrDeadlineExceeded
	}
	return err
}
