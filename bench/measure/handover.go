package measure

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"activator/bench/report"
	"activator/bench/stand"
)

var bind = Measurement{
	Name:  "bind",
	Title: "handover = \"bind\"",
	How: `nginx, which binds its address itself, alone and with its bind(2) answered by the activator. wrk, the rounds and what is
compared are as above. Without a filter there is no such answer: the kernel asks for it by one (seccomp_unotify(2)).`,
	Run: func(b *Bench, p *report.Part) error {
		const ours = "activator, handover = \"bind\""
		servers := []server{
			{nginxSolo, false, nginxAlone},
			{nginxBehind, false, nginxFiltered},
			{ours, true, nginxOurs("8080", "target = \"tcp4://:8080\"\n", "handover = \"bind\"\n")},
		}
		for _, t := range b.pairs(p, inTurns, "", servers, keepAlive, bulk) {
			p.Goals = append(p.Goals, same("bind, ", t, servers)...)
		}
		return nil
	},
}

var proxy = Measurement{
	Name:  "proxy",
	Title: "handover = \"proxy\"",
	How: `nginx and iperf3, asked directly and through a relay: ours, systemd-socket-proxyd, and HAProxy with one thread and splice.
wrk as above, iperf3 with one stream; all are started anew seven times. *Memory*: what 500 quiet connections add to the relay's
PSS, for each of them.`,
	Run: runProxy,
}

const (
	direct  = "directly"
	proxied = "activator, handover = \"proxy\""
	proxyd  = "systemd-socket-proxyd"
	haproxy = "HAProxy, 1 thread"
)

// opener starts a server and returns the port where it can be asked.
type opener func(*Bench) (port int, processes []*stand.Process, err error)

// relays are the ways to a server: alone is itself, ours is it started by the
// activator.
func relays(alone, ours opener) []server {
	return []server{
		{direct, false, alone},
		{proxied, true, ours},
		{proxyd, false, behind(alone, byProxyd)},
		{haproxy, false, behind(alone, byHAProxy)},
	}
}

var (
	nginxRelays = relays(nginxAlone, nginxOurs("8080", "target = \"tcp4://:8080\"\n", "handover = \"proxy\"\n"))
	iperfRelays = relays(iperfAlone, iperfOurs)
)

func iperfAlone(b *Bench) (int, []*stand.Process, error) {
	port := stand.Port()
	p, err := b.Start(stand.Self, nil, "iperf3", "-s", "-B", "127.0.0.1", "-p", strconv.Itoa(port), "--forceflush")
	if err != nil {
		return 0, nil, err
	}
	_, err = p.Next("Server listening")
	return port, []*stand.Process{p}, err
}

func iperfOurs(b *Bench) (int, []*stand.Process, error) {
	path, err := stand.Find("iperf3")
	if err != nil {
		return 0, nil, err
	}
	port := stand.Port()
	a, err := b.Activator(stand.Self, fmt.Sprintf("[[socket]]\nlisten = [\"tcp4://127.0.0.1:%d\"]\ntarget = \"tcp4://:5201\"\n"+
		"[service]\nexec = [%q, \"-s\"]\nhandover = \"proxy\"\n", port, path))
	return port, []*stand.Process{a}, err
}

// behind starts a server and a relay before it, the last of the processes.
func behind(alone opener, relay func(b *Bench, port, backend int) (*stand.Process, error)) opener {
	return func(b *Bench) (int, []*stand.Process, error) {
		backend, processes, err := alone(b)
		if err != nil {
			return 0, processes, err
		}
		port := stand.Port()
		p, err := relay(b, port, backend)
		if err != nil {
			return 0, processes, err
		}
		return port, append(processes, p), nil
	}
}

func byProxyd(b *Bench, port, backend int) (*stand.Process, error) {
	path, err := stand.Find("systemd-socket-proxyd")
	if err != nil {
		return nil, err
	}
	p, err := b.Start(stand.Self, nil, "systemd-socket-activate", "-l", fmt.Sprintf("127.0.0.1:%d", port),
		path, "--connections-max=4096", fmt.Sprintf("127.0.0.1:%d", backend))
	if err != nil {
		return nil, err
	}
	_, err = p.Next("Listening on")
	return p, err
}

const haproxyConf = `global
	nbthread 1
	maxconn 4096
defaults
	mode tcp
	option splice-auto
	timeout connect 5s
	timeout client 60s
	timeout server 60s
listen bench
	bind 127.0.0.1:%d
	server nginx 127.0.0.1:%d
`

func byHAProxy(b *Bench, port, backend int) (*stand.Process, error) {
	folder, err := b.Folder(stand.Self)
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(folder, "haproxy.cfg")
	if err := os.WriteFile(conf, fmt.Appendf(nil, haproxyConf, port, backend), 0o644); err != nil {
		return nil, err
	}
	p, err := b.Start(stand.Self, nil, "haproxy", "-db", "-f", conf)
	if err != nil {
		return nil, err
	}
	return p, stand.Listening(port)
}

// relayRounds is how many rounds relays take: two with each fresh start.
const relayRounds = 2 * freshStarts

func runProxy(b *Bench, p *report.Part) error {
	tables := b.loads(p, relayRounds, "nginx: ", nginxRelays, keepAlive, closing)
	for _, t := range append(tables, b.loads(p, relayRounds, "", iperfRelays, iperf)...) {
		for _, peer := range []string{haproxy, proxyd} {
			t.Base = peer
			p.Goals = append(p.Goals, sameOrMore(t, "proxy, "+t.Title+", to "+peer, proxied, 1))
		}
	}
	t := report.Table{Title: "Memory of a quiet connection", Unit: "PSS, KiB", Picture: report.Bars}
	for _, s := range nginxRelays[1:] {
		t.Rows = append(t.Rows, b.quietConnections(s))
	}
	p.Tables = append(p.Tables, t)
	for _, peer := range []string{haproxy, proxyd} {
		p.Goals = append(p.Goals, atMost("proxy, memory of a quiet connection, to "+peer, "", 1, quotient(t.Row(proxied), t.Row(peer))))
	}
	return nil
}

// pause is until a relay has taken its connections.
const pause = 200 * time.Millisecond

const quiet = 500 // connections

// quietConnections is what connections that say nothing add to the last of a
// server's processes.
func (b *Bench) quietConnections(s server) report.Row {
	row := report.Row{Case: s.name, Ours: s.ours}
	port, processes, err := s.open(b)
	defer func() { stop(processes...) }()
	if err == nil {
		err = stand.Answers(port)
	}
	if err != nil {
		row.Absent = reason(err)
		return row
	}
	pid := processes[len(processes)-1].PID()
	grown, err := stand.Quiet(port, quiet, func() (float64, error) {
		time.Sleep(pause)
		return stand.PSS(pid)
	})
	if err != nil {
		row.Absent = reason(err)
		return row
	}
	row.Values = []float64{round3(grown / quiet)}
	return row
}

var accept = Measurement{
	Name:  "accept",
	Title: "accept = true",
	How: `One instance of ` + "`cat`" + ` for each connection, as inetd has it: paced, 20 connections a second, from before connect(2)
to the first byte back; and sustained, four clients that each ask, leave and come again, connections per second over two
seconds. xinetd and the first systemd-socket-activate isolate nothing; ours and bwrap's have a sandbox for each connection.`,
	Run: runAccept,
}

const (
	acceptOurs  = "activator, accept = true"
	acceptXinet = "xinetd"
	acceptBare  = bare + " -a"
	acceptBwrap = bare + " -a + bwrap --unshare-all"
)

// acceptors start an inetd; the port is the contender's to know.
var acceptors = []server{
	{acceptOurs, true, func(b *Bench) (int, []*stand.Process, error) {
		port := stand.Port()
		a, err := b.Activator(stand.Self, fmt.Sprintf("[[socket]]\nlisten = [\"tcp4://127.0.0.1:%d\"]\n[service]\nexec = [\"/bin/cat\"]\n"+
			"handover = \"stdio\"\naccept = true\n", port))
		return port, []*stand.Process{a}, err
	}},
	{acceptXinet, false, byXinetd},
	{acceptBare, false, bySocketActivate("/bin/cat")},
	{acceptBwrap, false, bySocketActivate("bwrap", "--unshare-all", "--ro-bind", "/", "/", "/bin/cat")},
}

const xinetdConf = `defaults
{
	instances = UNLIMITED
	cps = 100000 1
	per_source = UNLIMITED
}
service bench
{
	type = UNLISTED
	socket_type = stream
	protocol = tcp
	bind = 127.0.0.1
	port = %d
	user = %s
	wait = no
	server = /bin/cat
}
`

func byXinetd(b *Bench) (int, []*stand.Process, error) {
	if os.Getuid() != 0 {
		return 0, nil, errNoRoot
	}
	folder, err := b.Folder(stand.Self)
	if err != nil {
		return 0, nil, err
	}
	port := stand.Port()
	conf := filepath.Join(folder, "xinetd.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, xinetdConf, port, "nobody"), 0o600); err != nil {
		return 0, nil, err
	}
	p, err := b.Start(stand.Self, nil, "xinetd", "-dontfork", "-f", conf, "-pidfile", filepath.Join(folder, "pid"))
	if err != nil {
		return 0, nil, err
	}
	return port, []*stand.Process{p}, stand.Listening(port)
}

func bySocketActivate(argv ...string) func(*Bench) (int, []*stand.Process, error) {
	return func(b *Bench) (int, []*stand.Process, error) {
		if _, err := stand.Find(argv[0]); err != nil {
			return 0, nil, err
		}
		port := stand.Port()
		p, err := b.Start(stand.Self, nil, append([]string{"systemd-socket-activate", "-a", "--inetd", "-l", "127.0.0.1:" + strconv.Itoa(port)}, argv...)...)
		if err != nil {
			return 0, nil, err
		}
		_, err = p.Next("Listening on")
		return port, []*stand.Process{p}, err
	}
}

// paced asks once, 50 ms after the last client.
type paced struct {
	port      int
	processes []*stand.Process
}

func (a *paced) close() { stop(a.processes...) }

func (a *paced) measure() (float64, error) {
	time.Sleep(50 * time.Millisecond)
	took, err := stand.FirstByte(a.port)
	return milliseconds(took), err
}

// sustained asks as fast as four clients can.
type sustained struct{ paced }

const (
	acceptClients = 4
	acceptTime    = 2 * time.Second
)

func (a *sustained) measure() (float64, error) {
	counts, failed := make([]float64, acceptClients), make([]error, acceptClients)
	begin := time.Now()
	var all sync.WaitGroup
	for i := range acceptClients {
		all.Go(func() {
			for time.Since(begin) < acceptTime && failed[i] == nil {
				_, failed[i] = stand.FirstByte(a.port)
				counts[i]++
			}
		})
	}
	all.Wait()
	took := time.Since(begin).Seconds()
	sum := 0.0
	for i := range counts {
		if failed[i] != nil {
			return 0, failed[i]
		}
		sum += counts[i]
	}
	return sum / took, nil
}

func acceptCases(make func(paced) bout) []contender {
	var all []contender
	for _, s := range acceptors {
		all = append(all, contender{s.name, s.ours, func(b *Bench) (bout, error) {
			port, processes, err := s.open(b)
			if err != nil {
				stop(processes...)
				return nil, err
			}
			return make(paced{port, processes}), nil
		}})
	}
	return all
}

func runAccept(b *Bench, p *report.Part) error {
	t := report.Table{Title: "Paced", Unit: "ms", Base: acceptXinet, Picture: report.Bars}
	t.Rows = b.alternate(b.rounds(60), acceptCases(func(a paced) bout { return &a }))
	s := report.Table{Title: "Sustained", Unit: "connections/s", Base: acceptBwrap, Picture: report.Bars}
	s.Rows = b.alternate(b.rounds(5), acceptCases(func(a paced) bout { return &sustained{a} }))
	p.Tables = append(p.Tables, t, s)
	p.Goals = append(p.Goals,
		ratio(t, "accept = true, paced, first byte, to xinetd (isolates nothing)", acceptOurs, acceptXinet, 1),
		atLeast("accept = true, sustained connections, to systemd-socket-activate -a + bwrap", "", 1,
			quotient(s.Row(acceptOurs), s.Row(acceptBwrap))))
	return nil
}
