package measure

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"activator/bench/report"
	"activator/bench/stand"
	"activator/bench/stats"
)

// load is what a server is asked for.
type load struct {
	name string
	unit string
	argv []string // the client; PORT is the server's
	read func(out string) (float64, error)
	warm func(port int) error // asks once, which starts a service that does not run yet
}

// The loads. A value is the rate of one second.
var (
	keepAlive = load{"Requests, keep-alive", "requests/s",
		[]string{"wrk", "-t1", "-c16", "-d1", "http://127.0.0.1:PORT/"}, requestRate, stand.Answers}
	closing = load{"Requests, a connection each", "requests/s",
		[]string{"wrk", "-t1", "-c16", "-d1", "-H", "Connection: close", "http://127.0.0.1:PORT/"}, requestRate, stand.Answers}
	bulk = load{"Bulk, 16 MiB an answer", "Gbit/s",
		[]string{"wrk", "-t1", "-c2", "-d1", "http://127.0.0.1:PORT/bulk"}, transferRate, stand.Answers}
	iperf = load{"Bulk, iperf3", "Gbit/s",
		[]string{"iperf3", "-c", "127.0.0.1", "-p", "PORT", "-t", "1", "-J"}, iperfRate, stand.Listening}
)

// loaded is a server that has started, and is asked.
type loaded struct {
	load
	port      int
	processes []*stand.Process
	spent     *[]float64 // of each measurement, the microseconds of CPU of an answer; nil: they are not wanted
}

func (l *loaded) close() { stop(l.processes...) }

func (l *loaded) measure() (float64, error) {
	argv := make([]string, len(l.argv))
	for i, arg := range l.argv {
		argv[i] = strings.ReplaceAll(arg, "PORT", strconv.Itoa(l.port))
	}
	before := l.cpu()
	out, err := stand.Output(l.spent != nil, argv...)
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %s", argv[0], err, out)
	}
	if strings.Contains(out, "Non-2xx") || strings.Contains(out, "Socket errors") {
		return 0, fmt.Errorf("%s: %s", argv[0], out)
	}
	if l.spent != nil {
		answers, err := wrkCount(out)
		if err != nil {
			return 0, err
		}
		*l.spent = append(*l.spent, round3(float64((l.cpu()-before).Nanoseconds())/1000/answers))
	}
	return l.read(out)
}

// cpu is what the server and all that it has started have used.
func (l *loaded) cpu() time.Duration {
	if l.spent == nil {
		return 0
	}
	return stand.CPU(l.processes[len(l.processes)-1].PID())
}

// wrkCount reads how many answers wrk got.
func wrkCount(out string) (float64, error) {
	before, _, found := strings.Cut(out, " requests in ")
	words := strings.Fields(before)
	if !found || len(words) == 0 {
		return 0, fmt.Errorf("wrk printed no number of requests: %s", out)
	}
	n, err := strconv.ParseFloat(words[len(words)-1], 64)
	if err == nil && n == 0 {
		err = fmt.Errorf("wrk got no answer: %s", out)
	}
	return n, err
}

// iperfRate reads iperf3's JSON.
func iperfRate(out string) (float64, error) {
	var r struct {
		End struct {
			Received struct {
				Rate float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		return 0, fmt.Errorf("iperf3: %w: %s", err, out)
	}
	if r.End.Received.Rate == 0 {
		return 0, fmt.Errorf("iperf3 has received nothing: %s", out)
	}
	return r.End.Received.Rate / 1e9, nil
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

// server starts a server and returns the port where it can be asked.
type server struct {
	name string
	ours bool
	open func(*Bench) (port int, processes []*stand.Process, err error)
}

// underLoad makes contenders of servers. Each is started when the table begins,
// and has answered before anything is measured.
func underLoad(l load, servers []server, spent [][]float64) []contender {
	var all []contender
	for i, s := range servers {
		var own *[]float64
		if spent != nil {
			own = &spent[i]
		}
		all = append(all, contender{s.name, s.ours, func(b *Bench) (bout, error) {
			if _, err := stand.Find(l.argv[0]); err != nil {
				return nil, err
			}
			port, processes, err := s.start(b, own != nil)
			if err != nil {
				stop(processes...)
				return nil, err
			}
			if err := l.warm(port); err != nil {
				err = fmt.Errorf("%w; the last it printed: %s", err, processes[len(processes)-1].Tail())
				stop(processes...)
				return nil, err
			}
			return &loaded{load: l, port: port, processes: processes, spent: own}, nil
		}})
	}
	return all
}

// start opens the server, on the first processor alone if it is pinned: the client has
// the second one.
func (s *server) start(b *Bench, pinned bool) (port int, processes []*stand.Process, err error) {
	if !pinned {
		return s.open(b)
	}
	err = stand.On(0, func() (err error) {
		port, processes, err = s.open(b)
		return err
	})
	return port, processes, err
}

// freshStarts is how often servers that are compared closely are started anew: where its
// memory happens to lie makes one of them faster than the other for good.
const freshStarts = 7

// inParts is alternate with contenders that are made anew for each part of the rounds.
func (b *Bench) inParts(rounds int, fresh func() []contender) []report.Row {
	parts := min(freshStarts, rounds)
	var rows []report.Row
	for part := range parts {
		from, to := part*rounds/parts, (part+1)*rounds/parts
		for i, r := range b.alternate(to-from, fresh()) {
			switch {
			case part == 0:
				rows = append(rows, r)
			case rows[i].Absent == "" && r.Absent == "":
				rows[i].Values = append(rows[i].Values, r.Values...)
			case rows[i].Absent == "":
				rows[i].Absent, rows[i].Values = r.Absent, nil
			}
		}
	}
	return rows
}

// pairs measures servers against the first, the same program alone, in many short rounds: a second
// each, and what is told are the ratios of the rounds. Beside the rate it tells what the
// program costs, in two tables for each load; the first are returned.
func (b *Bench) pairs(p *report.Part, rounds int, title string, servers []server, loads ...load) []report.Table {
	var tables []report.Table
	for _, l := range loads {
		spent := make([][]float64, len(servers))
		t := b.underOne(l, rounds, title, servers, spent)
		costs := report.Table{Title: title + "The program's CPU: " + l.name, Unit: "µs an answer", Base: t.Base, Paired: true}
		for i, r := range t.Rows {
			costs.Rows = append(costs.Rows, report.Row{Case: r.Case, Ours: r.Ours, Absent: r.Absent})
			if r.Absent == "" {
				costs.Rows[i].Values = spent[i]
			}
		}
		for i, s := range servers[1:] {
			if ratio, lies, ok := costs.Ratio(s.name); ok {
				b.Progress("  CPU an answer: %.1f and %.1f µs, %.3f (%.3f to %.3f)", stats.Median(spent[0]), stats.Median(spent[i+1]), ratio, lies.Low, lies.High)
			}
		}
		tables = append(tables, t)
		p.Tables = append(p.Tables, t, costs)
	}
	return tables
}

// underOne measures servers under a load, in rounds that are compared with the first's.
func (b *Bench) underOne(l load, rounds int, title string, servers []server, spent [][]float64) report.Table {
	b.Progress("  %s, %s", l.name, l.unit)
	return report.Table{Title: title + l.name, Unit: l.unit, Base: servers[0].name, Paired: true, Picture: report.Bars,
		Rows: b.inParts(b.rounds(rounds), func() []contender { return underLoad(l, servers, spent) })}
}

// loads measures servers under loads, a table each.
func (b *Bench) loads(p *report.Part, rounds int, title string, servers []server, loads ...load) []report.Table {
	var tables []report.Table
	for _, l := range loads {
		tables = append(tables, b.underOne(l, rounds, title, servers, nil))
	}
	p.Tables = append(p.Tables, tables...)
	return tables
}

// site is what every nginx serves: the same files, since one that lies in memory in larger
// pieces is sent faster.
func site(b *Bench) (string, error) {
	folder := filepath.Join(b.Dir, "site")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	for name, content := range map[string][]byte{"index.html": []byte("hello\n"), "bulk": make([]byte, stand.BulkSize)} {
		path := filepath.Join(folder, name)
		if _, err := os.Stat(path); err == nil {
			continue
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return "", err
		}
	}
	return folder, nil
}

// nginxFiles writes a configuration of nginx that listens at an address; it returns
// the folders it needs, its own first, and the arguments. Into the folder temp nginx
// may write; empty: its own.
func nginxFiles(b *Bench, listen, temp string) (folders, argv []string, err error) {
	nginx, err := stand.Find("nginx")
	if err != nil {
		return nil, nil, err
	}
	root, err := site(b)
	if err != nil {
		return nil, nil, err
	}
	own, err := b.Folder(stand.Self)
	if err != nil {
		return nil, nil, err
	}
	if temp == "" {
		temp = own
	}
	path := filepath.Join(own, "nginx.conf")
	if err := os.WriteFile(path, fmt.Appendf(nil, nginxConf, listen, root, temp), 0o644); err != nil {
		return nil, nil, err
	}
	return []string{own, root}, []string{nginx, "-e", "stderr", "-p", own, "-c", path}, nil
}

// nginxConf has a worker of its own: as a single process, nginx 1.22 dies of a
// segmentation fault once it is passed a socket.
const nginxConf = `daemon off;
worker_processes 1;
pid %[3]s/pid;
error_log stderr crit;
events { worker_connections 4096; }
http {
	access_log off;
	sendfile on;
	keepalive_requests 100000000;
	client_body_temp_path %[3]s/temp; proxy_temp_path %[3]s/temp; fastcgi_temp_path %[3]s/temp;
	uwsgi_temp_path %[3]s/temp; scgi_temp_path %[3]s/temp;
	server { listen %[1]s; root %[2]s; }
}
`

// nginxAlone is nginx, run by the user that runs us.
func nginxAlone(b *Bench) (int, []*stand.Process, error) { return nginxBy(b) }

// nginxFiltered is the same behind a filter of one instruction: what the kernel takes
// for looking whether a call is allowed, for every caller.
func nginxFiltered(b *Bench) (int, []*stand.Process, error) {
	return nginxBy(b, b.Program("bench"), stand.Behind)
}

// nginxBy is nginx, run by what comes before its own command line.
func nginxBy(b *Bench, before ...string) (int, []*stand.Process, error) {
	port := stand.Port()
	_, argv, err := nginxFiles(b, fmt.Sprintf("127.0.0.1:%d", port), "")
	if err != nil {
		return 0, nil, err
	}
	p, err := b.Start(stand.Self, nil, append(before, argv...)...)
	if err != nil {
		return 0, nil, err
	}
	return port, []*stand.Process{p}, stand.Listening(port)
}

// nginxOurs is nginx started by the activator: more goes into [service], sandbox below [sandbox]. inside is
// what its configuration binds, with %d for the port.
func nginxOurs(inside, target, more string, sandbox ...string) func(*Bench) (int, []*stand.Process, error) {
	return func(b *Bench) (int, []*stand.Process, error) {
		port := stand.Port()
		fill := strings.NewReplacer("PORT", strconv.Itoa(port))
		folders, argv, err := nginxFiles(b, fill.Replace(inside), "/tmp")
		if err != nil {
			return 0, nil, err
		}
		text := fmt.Sprintf("[[socket]]\nlisten = [\"tcp4://127.0.0.1:%d\"]\n%s[service]\nexec = [%s]\n%s[sandbox]\nread_only = [%s]\n%s",
			port, target, quoted(argv), fill.Replace(more), quoted(folders), strings.Join(sandbox, ""))
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
