package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"activator/internal/proxy"

	"golang.org/x/sys/unix"
)

// relay is one of those that are compared.
type relay struct {
	name      string
	web, bulk int // ports that it listens on
	commands  [][]string
	processes []*os.Process
}

const (
	webPort  = 18000 // nginx
	bulkPort = 18001 // iperf3 -s
)

// startRelays starts all, beside "direct", which is none. also are other builds of
// this program.
func startRelays(dir string, also []string) ([]*relay, error) {
	relays := []*relay{
		{name: "direct", web: webPort, bulk: bulkPort},
		{name: "activator", web: 18010, bulk: 18011},
		{name: "haproxy", web: 18020, bulk: 18021},
		{name: "socket-proxyd", web: 18030, bulk: 18031},
	}
	if err := startBackends(dir); err != nil {
		return nil, err
	}
	ours, theirs, systemd := relays[1], relays[2], relays[3]
	if err := ours.start("/proc/self/exe", "relay", fmt.Sprint(ours.web), fmt.Sprint(webPort), fmt.Sprint(ours.bulk), fmt.Sprint(bulkPort)); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(config, fmt.Appendf(nil, haproxyConfig, theirs.web, webPort, theirs.bulk, bulkPort), 0o644); err != nil {
		return nil, err
	}
	if err := theirs.start("haproxy", "-db", "-f", config); err != nil {
		return nil, err
	}
	for _, ports := range [][2]int{{systemd.web, webPort}, {systemd.bulk, bulkPort}} {
		err := systemd.start("systemd-socket-activate", "-l", fmt.Sprintf("127.0.0.1:%d", ports[0]),
			"/lib/systemd/systemd-socket-proxyd", "--connections-max=8000", fmt.Sprintf("127.0.0.1:%d", ports[1]))
		if err != nil {
			return nil, err
		}
	}
	for i, path := range also {
		r := &relay{name: filepath.Base(path), web: 18040 + 10*i, bulk: 18041 + 10*i}
		if err := r.start(path, "relay", fmt.Sprint(r.web), fmt.Sprint(webPort), fmt.Sprint(r.bulk), fmt.Sprint(bulkPort)); err != nil {
			return nil, err
		}
		relays = append(relays, r)
	}
	for _, r := range relays {
		for _, port := range []int{r.web, r.bulk} {
			if err := listens(port); err != nil {
				return nil, fmt.Errorf("%s: %w", r.name, err)
			}
		}
	}
	return relays, nil
}

const haproxyConfig = `global
	nbthread 1
	maxconn 6000
defaults
	mode tcp
	option splice-auto
	timeout connect 5s
	timeout client 1h
	timeout server 1h
	maxconn 6000
listen web
	bind 127.0.0.1:%d
	server s 127.0.0.1:%d
listen bulk
	bind 127.0.0.1:%d
	server s 127.0.0.1:%d
`

const nginxConfig = `worker_processes 1;
daemon off;
pid %[1]s/nginx.pid;
error_log stderr crit;
events { worker_connections 8000; }
http {
	access_log off;
	keepalive_requests 1000000000;
	keepalive_timeout 1h;
	server {
		listen 127.0.0.1:%[2]d backlog=4096;
		location = /1m { root %[1]s; }
		location / { return 200 "hello\n"; }
	}
}
`

var children []*os.Process

func startBackends(dir string) error {
	config := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, nginxConfig, dir, webPort), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "1m"), make([]byte, 1<<20), 0o644); err != nil {
		return err
	}
	if _, err := start("nginx", "-c", config); err != nil {
		return err
	}
	_, err := start("iperf3", "-s", "-p", fmt.Sprint(bulkPort))
	return err
}

func (r *relay) start(name string, args ...string) error {
	r.commands = append(r.commands, append([]string{name}, args...))
	p, err := start(name, args...)
	r.processes = append(r.processes, p)
	return err
}

// restart is for a relay that died: systemd-socket-proxyd 252 does, by SIGPIPE, when a
// client leaves in the middle of an answer.
func (r *relay) restart() error {
	for _, p := range r.processes {
		_ = p.Signal(syscall.SIGTERM)
	}
	commands := r.commands
	r.commands, r.processes = nil, nil
	for _, c := range commands {
		if err := r.start(c[0], c[1:]...); err != nil {
			return err
		}
	}
	for _, port := range []int{r.web, r.bulk} {
		if err := listens(port); err != nil {
			return err
		}
	}
	return nil
}

// start starts a program that ends with us.
func start(name string, args ...string) (*os.Process, error) {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	children = append(children, cmd.Process)
	return cmd.Process, nil
}

func stopAll() {
	for _, p := range children {
		_ = p.Signal(syscall.SIGTERM)
	}
	for _, p := range children {
		_, _ = p.Wait()
	}
}

func listens(port int) error {
	var err error
	for range 100 {
		var c net.Conn
		if c, err = net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return c.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}

// used is the processor time of r so far, from proc(5), in seconds.
func (r *relay) used() (sum float64) {
	for _, p := range r.processes {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", p.Pid))
		if err != nil {
			continue
		}
		_ = text
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.Pid))
		for _, task := range tasks {
			if text, err := os.ReadFile(task); err == nil {
				n, _ := strconv.ParseFloat(strings.Fields(string(text))[0], 64)
				sum += n / 1e9
			}
		}
	}
	return sum
}

// memory is what the processes of r hold, in bytes: Pss of smaps_rollup, proc(5).
func (r *relay) memory() (sum float64) {
	for _, p := range r.processes {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.Pid))
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(line, "Pss:"); ok {
				n, _ := strconv.ParseFloat(strings.Fields(value)[0], 64)
				sum += n * 1024
			}
		}
	}
	return sum
}

type target struct{ port int }

func (t target) Dial(*proxy.Client) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	if err := proxy.Prepare(fd); err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: t.port, Addr: [4]byte{127, 0, 0, 1}}); err != nil && err != unix.EINPROGRESS {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// runRelay is our side of the comparison: pairs of a port to listen on and one to
// connect to.
func runRelay(ports []string) error {
	var routes []proxy.Route
	for i := 0; i+1 < len(ports); i += 2 {
		from, err := strconv.Atoi(ports[i])
		if err != nil {
			return err
		}
		to, err := strconv.Atoi(ports[i+1])
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Port: from, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			return err
		}
		if err := unix.Listen(fd, 4096); err != nil {
			return err
		}
		routes = append(routes, proxy.Route{Listener: os.NewFile(uintptr(fd), "listener"), Dialer: target{to}})
	}
	p, err := proxy.New(routes, proxy.Options{Idle: time.Hour, MaxConns: 8000})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := p.Run(ctx); err != nil {
		return err
	}
	return p.Close()
}
