package test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"activator/internal/fdpass"
	"activator/internal/ktest"
)

// serve is what the test's own binary does when it is the service.
func serve(mode string) {
	switch mode {
	case "view":
		seen := look() // before anything else is opened
		serveOnce(func(c net.Conn) { _ = json.NewEncoder(c).Encode(seen) })
	case "crash": // dies at once, and leaves its clients where they are
		syscall.Kill(os.Getpid(), syscall.SIGSEGV)
		os.Exit(3)
	case "break": // turns its listeners into something else, and goes
		for n := 3; n < 3+listenFDs(); n++ {
			_ = syscall.Shutdown(n, syscall.SHUT_RDWR)
			_ = syscall.Connect(n, &syscall.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}})
		}
		os.Exit(0)
	case "deaf": // accepts no client and does not end by itself
		for {
			time.Sleep(time.Hour)
		}
	case "meddle": // with what its stdout leads to
		serveOnce(func(net.Conn) { meddle() })
	case "rebel":
		rebel()
	case "sender": // sends what its options let it
		sender()
	case "bind flood": // binds without end, in several threads
		for range 8 {
			go func() {
				for n := 0; ; n++ {
					fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
					if err != nil {
						os.Exit(1)
					}
					_ = syscall.Bind(fd, &syscall.SockaddrInet4{Port: 20000})
					syscall.Close(fd)
					if n == 250 { // together more than the burst that is free
						fmt.Println("flooding")
					}
				}
			}()
		}
		ktest.Hang()
	case "http": // listens by itself
		fmt.Println(http.ListenAndServe(":8000", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			host, _, _ := net.SplitHostPort(r.RemoteAddr)
			fmt.Fprintf(w, "hello %s from %s", host, cmp.Or(os.Getenv("LISTEN_FDS"), "no environment"))
		})))
	case "answer one":
		answerOne(os.Args[1], os.Args[2])
	case "answer many":
		answerMany(os.Args[1], os.Args[2])
	case "carried datagrams":
		carriedDatagrams(os.Args[1:])
	case "carried":
		carried(os.Args[1:])
	case "flood":
		line := []byte(strings.Repeat("flood ", 20) + "\n")
		for {
			if _, err := os.Stdout.Write(line); err != nil {
				os.Exit(1)
			}
		}
	}
	os.Exit(4)
}

// rebel rids itself of the parent-death signal by an execve from another thread
// than its first one, says so, and stays.
func rebel() {
	var signal int32
	if os.Getenv("ACTIVATOR_TEST_FREE") == "" {
		go func() { // Main's thread is taken, see init.
			env := append(os.Environ(), "ACTIVATOR_TEST_FREE=yes")
			fmt.Println(syscall.Exec(os.Args[0], os.Args, env))
			os.Exit(5)
		}()
	} else if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_GET_PDEATHSIG, uintptr(unsafe.Pointer(&signal)), 0); errno == 0 {
		fmt.Println("the parent-death signal is", signal)
	}
	ktest.Hang()
}

func init() {
	if os.Getenv("ACTIVATOR_TEST_SERVICE") == "rebel" {
		runtime.LockOSThread()
	}
}

func listenFDs() int {
	n, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	return n
}

// serveOnce answers one connection on the first inherited socket.
func serveOnce(answer func(net.Conn)) {
	inherited, err := fdpass.ReceiveInherited()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	l, err := net.FileListener(inherited[0].File)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	c, err := l.Accept()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	answer(c)
	c.Close()
	os.Exit(0)
}

// view is what a process sees of the world.
type view struct {
	Interfaces   []string
	Routes       []string
	Capabilities map[string]string
	NoNewPrivs   string
	PID          int
	Processes    []string
	FDs          map[string]string
	Writable     []string
	Environment  []string
	UID, GID     int
	Hostname     string
}

func look() view {
	v := view{PID: os.Getpid(), UID: os.Getuid(), GID: os.Getgid(), Capabilities: map[string]string{}, FDs: map[string]string{}}
	v.Hostname, _ = os.Hostname()
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "LISTEN_PIDFDID=") { // only where the kernel has pidfs
			v.Environment = append(v.Environment, entry)
		}
	}
	sort.Strings(v.Environment)
	interfaces, _ := net.Interfaces()
	for _, i := range interfaces {
		addrs, _ := i.Addrs()
		v.Interfaces = append(v.Interfaces, fmt.Sprint(i.Name, " ", addrs, " ", i.Flags))
	}
	v.Routes = routes()
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		if strings.HasPrefix(key, "Cap") {
			v.Capabilities[key] = value
		} else if key == "NoNewPrivs" {
			v.NoNewPrivs = value
		}
	}
	v.Processes, _ = filepath.Glob("/proc/[0-9]*")
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err == nil && !strings.HasPrefix(target, "anon_inode:[event") && !strings.HasSuffix(target, "/fd") {
			target, _, _ = strings.Cut(target, ":")
			v.FDs[filepath.Base(fd)] = target
		}
	}
	for _, dir := range []string{"/", "/bin", "/dev", "/dev/shm", "/etc", "/lib", "/proc", "/run", "/tmp", "/usr", "/usr/bin", "/var", "/var/tmp"} {
		name := filepath.Join(dir, "written")
		if f, err := os.Create(name); err == nil {
			f.Close()
			os.Remove(name)
			v.Writable = append(v.Writable, dir)
		}
	}
	return v
}

// routes lists the routes that lead anywhere but to ourselves.
func routes() []string {
	var found []string
	for _, file := range []string{"/proc/net/route", "/proc/net/ipv6_route"} {
		text, _ := os.ReadFile(file)
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if len(fields) > 0 && fields[0] != "Iface" && fields[len(fields)-1] != "lo" {
				found = append(found, strings.TrimSpace(line))
			}
		}
	}
	return found
}

// sender answers the first datagram by a long one, or by what a broadcast ended with.
func sender() {
	buffer := make([]byte, 100)
	_, from, err := syscall.Recvfrom(3, buffer, 0)
	if err != nil {
		os.Exit(1)
	}
	answer := make([]byte, longDatagram)
	if _, ok := from.(*syscall.SockaddrUnix); !ok {
		answer = fmt.Append(nil, syscall.Sendto(3, buffer[:1], 0, &syscall.SockaddrInet4{Port: 9, Addr: [4]byte{255, 255, 255, 255}}))
	}
	if err := syscall.Sendto(3, answer, 0, from); err != nil {
		fmt.Println("answer:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
