package service_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"activator/internal/ktest"
	"activator/internal/listen"
	"activator/internal/service"
	"activator/internal/spec"
)

func init() {
	if len(os.Args) == 3 && os.Args[1] == "instance" {
		instanceOf(os.Args[2])
	}
}

// seen is what an instance says of itself.
type seen struct {
	Files map[string]string // what the descriptors up to 9 are
	Env   []string
}

// instanceOf is what the test's own binary does inside the sandbox: it answers
// each line with one, on its stdin and stdout or on descriptor 3.
func instanceOf(behaviour string) {
	files := map[string]string{}
	for fd := range 10 {
		target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err == nil && !strings.HasPrefix(target, "anon_inode:[event") && !strings.Contains(target, "cpu.max") && !strings.Contains(target, "cpu.cfs_") {
			files[fmt.Sprint(fd)] = target
		}
	}
	in, out := os.Stdin, os.Stdout
	if os.Getenv("LISTEN_FDS") == "1" {
		in = os.NewFile(3, "connection")
		out = in
	}
	term := make(chan os.Signal, 1)
	if behaviour == "deaf" {
		signal.Ignore(syscall.SIGTERM)
	} else {
		signal.Notify(term, syscall.SIGTERM)
		go func() { <-term; fmt.Fprintln(out, "told to end"); os.Exit(0) }()
	}
	fmt.Fprintln(os.Stderr, "stderr of an instance")
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		switch lines.Text() {
		case "crash":
			os.Exit(7)
		case "who":
			_ = json.NewEncoder(out).Encode(seen{files, os.Environ()})
		default:
			fmt.Fprintln(out, "heard", lines.Text())
		}
	}
	os.Exit(0)
}

// stand is a service, and what it says.
type stand struct {
	t       *testing.T
	log     chan string
	stop    func()
	service *service.Service
	dial    string // of the TCP socket
	path    string // of the unix socket
}

func (s *stand) await(words ...string) string {
	s.t.Helper()
	limit := time.After(5 * time.Minute)
	for {
		select {
		case line := <-s.log:
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
				return line
			}
		case <-limit:
			s.t.Fatalf("no line with %q", words)
		}
	}
}

// caller is a connection, with the time limit of tests.
type caller struct {
	t *testing.T
	net.Conn
	lines *bufio.Reader
}

func (s *stand) call(network, address string) *caller {
	s.t.Helper()
	return s.callFrom("", network, address)
}

func (s *stand) callFrom(local, network, address string) *caller {
	s.t.Helper()
	var d net.Dialer
	if local != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(local)}
	}
	c, err := d.Dial(network, address)
	if err == nil {
		err = c.SetDeadline(time.Now().Add(30 * time.Second))
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return &caller{s.t, c, bufio.NewReader(c)}
}

// ask sends a line and returns the one that comes back.
func (c *caller) ask(line string) string {
	c.t.Helper()
	if _, err := fmt.Fprintln(c, line); err != nil {
		return err.Error()
	}
	answer, err := c.lines.ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(answer)
}

func (c *caller) heard(line string) {
	c.t.Helper()
	if got := c.ask(line); got != "heard "+line {
		c.t.Errorf("asked %q, got %q", line, got)
	}
}

func up(t *testing.T, behaviour string, change func(*spec.Service)) *stand {
	t.Helper()
	dir, err := os.MkdirTemp("", "ine")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	conf := spec.Service{
		Timeouts:   spec.Timeouts{RestartDelay: time.Millisecond, RestartMaxDelay: 20 * time.Millisecond, Hold: 30 * time.Second, StartTimeout: 30 * time.Second, StopTimeout: 30 * time.Second},
		Process:    spec.Process{Name: "test", Argv: []string{self, "instance", behaviour}, Env: []string{"GORACE=atexit_sleep_ms=0", "REMOTE_ADDR=nobody"}, Umask: 0o22, Handed: spec.LaterStdio},
		Accept:     true,
		MaxConns:   64,
		Warm:       true,
		StopSignal: syscall.SIGTERM,
	}
	if change != nil {
		change(&conf)
	}
	s := &stand{t: t, path: filepath.Join(dir, "s"), log: make(chan string, 10000)}
	s.run(conf)
	t.Cleanup(s.stop)
	return s
}

// open opens the sockets, of TCP one at a free port below those that the kernel
// gives to clients.
func (s *stand) open() []*listen.Socket {
	t := s.t
	t.Helper()
	port := ktest.Port(t)
	s.dial = fmt.Sprintf("127.0.0.1:%d", port)
	var specs []spec.Socket
	for _, text := range []string{fmt.Sprintf("tcp://:%d", port), "unix://" + s.path} {
		address, err := spec.ParseAddress(text)
		if err != nil {
			t.Fatal(err)
		}
		specs = append(specs, spec.Socket{Address: address, Name: "test"})
	}
	sockets, err := listen.OpenAll(t.Context(), specs, listen.Means{})
	if err != nil {
		t.Fatal(err)
	}
	return sockets
}

// run makes everything a service needs, and stop takes it all down again.
func (s *stand) run(conf spec.Service) {
	s.t.Helper()
	slots := service.NewSlots(2, 100)
	slots.OpenSlots()
	s.service, s.stop = service.Serve(s.t, conf, s.open(), slots, s.log)
}
