package measure

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"activator/bench/report"
	"activator/bench/stand"
)

// load is what a web server is asked for.
type load struct {
	name string
	unit string
	args []string // of wrk
	path string
	read func(out string) (float64, error)
}

const wrkTime = 1 // seconds of a value

// The loads of web servers.
var (
	keepAlive = load{"Requests, keep-alive", "requests/s", []string{"-t1", "-c16"}, "/", requestRate}
	closing   = load{"Requests, a connection each", "requests/s", []string{"-t1", "-c16", "-H", "Connection: close"}, "/", requestRate}
	bulk      = load{"Bulk, 16 MiB an answer", "Gbit/s", []string{"-t1", "-c2"}, "/bulk", transferRate}
)

// loaded is a web server that has started, and is asked by wrk.
type loaded struct {
	load
	port      int
	processes []*stand.Process
}

func (l *loaded) close() { stop(l.processes...) }

func (l *loaded) measure() (float64, error) {
	wrk, err := stand.Find("wrk")
	if err != nil {
		return 0, err
	}
	args := append(append([]string{}, l.args...), "-d"+strconv.Itoa(wrkTime), fmt.Sprintf("http://127.0.0.1:%d%s", l.port, l.path))
	out, err := exec.Command(wrk, args...).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("wrk: %w: %s", err, out)
	}
	if strings.Contains(string(out), "Non-2xx") || strings.Contains(string(out), "Socket errors") {
		return 0, fmt.Errorf("wrk: %s", out)
	}
	return l.read(string(out))
}

func requestRate(out string) (float64, error) { return wrkFigure(out, "Requests/sec:") }

// transferRate turns wrk's bytes (1024 and so on) into gigabits.
func transferRate(out string) (float64, error) {
	bytes, err := wrkFigure(out, "Transfer/sec:")
	return bytes * 8 / 1e9, err
}

// wrkFigure reads a line of wrk's: KEY NUMBER[KB|MB|GB|B].
func wrkFigure(out, key string) (float64, error) {
	_, rest, found := strings.Cut(out, key)
	if !found {
		return 0, fmt.Errorf("wrk printed no %q: %s", key, out)
	}
	text := strings.Fields(rest + " ?")[0]
	factor := 1.0
	for _, u := range []struct {
		suffix string
		factor float64
	}{{"KB", 1 << 10}, {"MB", 1 << 20}, {"GB", 1 << 30}, {"B", 1}} {
		if number, ok := strings.CutSuffix(text, u.suffix); ok {
			text, factor = number, u.factor
			break
		}
	}
	v, err := strconv.ParseFloat(text, 64)
	return v * factor, err
}

// server starts a web server and returns the port where it can be asked.
type server struct {
	name string
	ours bool
	open func(*Bench) (port int, processes []*stand.Process, err error)
}

// underLoad makes contenders of servers. Each is started when the table begins,
// and has answered before anything is measured.
func underLoad(l load, servers []server) []contender {
	var all []contender
	for _, s := range servers {
		all = append(all, contender{s.name, s.ours, func(b *Bench) (bout, error) {
			if _, err := stand.Find("wrk"); err != nil {
				return nil, err
			}
			port, processes, err := s.open(b)
			if err != nil {
				stop(processes...)
				return nil, err
			}
			if err := stand.Answers(port); err != nil {
				stop(processes...)
				return nil, err
			}
			return &loaded{load: l, port: port, processes: processes}, nil
		}})
	}
	return all
}

// loads measures servers under loads, a table each.
func (b *Bench) loads(p *report.Part, title, base string, servers []server, loads ...load) []report.Table {
	var tables []report.Table
	for _, l := range loads {
		b.Progress("  %s, %s", l.name, l.unit)
		t := report.Table{Title: title + l.name, Unit: l.unit, Base: base, Picture: report.Bars}
		t.Rows = b.alternate(b.rounds(5), underLoad(l, servers))
		tables = append(tables, t)
	}
	p.Tables = append(p.Tables, tables...)
	return tables
}

// nginxFiles writes a configuration of nginx that listens at an address, one
// process without workers, and what it serves; it returns the arguments.
func nginxFiles(b *Bench, listen string) (folder string, argv []string, err error) {
	if _, err := stand.Find("nginx"); err != nil {
		return "", nil, err
	}
	if folder, err = b.Folder(stand.Self); err != nil {
		return "", nil, err
	}
	if err := os.WriteFile(filepath.Join(folder, "index.html"), []byte("hello\n"), 0o644); err != nil {
		return "", nil, err
	}
	if err := os.WriteFile(filepath.Join(folder, "bulk"), make([]byte, stand.BulkSize), 0o644); err != nil {
		return "", nil, err
	}
	text := fmt.Sprintf(nginxConf, listen, folder)
	path := filepath.Join(folder, "nginx.conf")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return "", nil, err
	}
	nginx, err := stand.Find("nginx")
	return folder, []string{nginx, "-e", "stderr", "-p", "/tmp", "-c", path}, err
}

const nginxConf = `daemon off;
master_process off;
pid /tmp/actbench-nginx.pid;
error_log stderr crit;
events { worker_connections 4096; }
http {
	access_log off;
	sendfile on;
	keepalive_requests 100000000;
	client_body_temp_path /tmp/actbench-nginx; proxy_temp_path /tmp/actbench-nginx; fastcgi_temp_path /tmp/actbench-nginx;
	uwsgi_temp_path /tmp/actbench-nginx; scgi_temp_path /tmp/actbench-nginx;
	server { listen %s; root %s; }
}
`

// nginxAlone is nginx, run by whoever runs us.
func nginxAlone(b *Bench) (int, []*stand.Process, error) {
	port := stand.Port()
	_, argv, err := nginxFiles(b, fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return 0, nil, err
	}
	p, err := b.Start(stand.Self, nil, argv...)
	if err != nil {
		return 0, nil, err
	}
	return port, []*stand.Process{p}, stand.Listening(port)
}

// nginxOurs is nginx started by the activator: more goes into [service]. inside is
// what its configuration binds, with %d for the port.
func nginxOurs(inside, target, more string) func(*Bench) (int, []*stand.Process, error) {
	return func(b *Bench) (int, []*stand.Process, error) {
		port := stand.Port()
		fill := strings.NewReplacer("PORT", strconv.Itoa(port))
		folder, argv, err := nginxFiles(b, fill.Replace(inside))
		if err != nil {
			return 0, nil, err
		}
		text := fmt.Sprintf("[[socket]]\nlisten = [\"tcp4://127.0.0.1:%d\"]\n%s[service]\nexec = [%s]\n%s[sandbox]\nread_only = [%q]\n",
			port, target, quoted(argv), fill.Replace(more), folder)
		a, err := b.Activator(stand.Self, text)
		return port, []*stand.Process{a}, err
	}
}

func quoted(argv []string) string {
	var all []string
	for _, arg := range argv {
		all = append(all, strconv.Quote(arg))
	}
	return strings.Join(all, ", ")
}

// pause is between the end of a run of wrk and what looks at the processes.
const pause = 200 * time.Millisecond
