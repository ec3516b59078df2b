package measure

import (
	"fmt"

	"activator/bench/report"
	"activator/bench/stand"
)

var running = Measurement{
	Name:  "running",
	Title: "Once it runs",
	How: `The same web server, alone and started by the activator with its socket handed over (` + "`handover = \"fds\"`" + `), sandbox and
seal as by default. wrk asks: one thread, 16 connections, or 2 for bulk; a value is the rate of one second. The service runs
before anything is measured.`,
	Run: runRunning,
}

const (
	goAlone    = "a Go web server alone"
	goOurs     = "the same by activator"
	nginxSolo  = "nginx alone"
	nginxByFDs = "the same by activator (fds)"
)

var goServers = []server{
	{goAlone, false, func(b *Bench) (int, []*stand.Process, error) {
		port := stand.Port()
		p, err := b.Start(stand.Self, nil, b.Program("bench"), "serve", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return 0, nil, err
		}
		return port, []*stand.Process{p}, stand.Listening(port)
	}},
	{goOurs, true, func(b *Bench) (int, []*stand.Process, error) {
		port := stand.Port()
		a, err := b.Activator(stand.Self, fmt.Sprintf("[[socket]]\nlisten = [\"tcp://127.0.0.1:%d\"]\n[service]\nexec = [%q, \"serve\"]\n",
			port, b.Program("bench")))
		return port, []*stand.Process{a}, err
	}},
}

// nginx takes inherited sockets by its own NGINX=FD; and looks for them at the
// address that its configuration listens at.
var nginxServers = []server{
	{nginxSolo, false, nginxAlone},
	{nginxByFDs, true, nginxOurs("127.0.0.1:PORT", "", "environment = [\"NGINX=3;\"]\n")},
}

func runRunning(b *Bench, p *report.Part) error {
	for _, set := range []struct {
		title, alone, ours string
		servers            []server
	}{
		{"Go: ", goAlone, goOurs, goServers},
		{"nginx: ", nginxSolo, nginxByFDs, nginxServers},
	} {
		for _, t := range b.loads(p, 15, set.title, set.alone, set.servers, keepAlive, bulk) {
			p.Goals = append(p.Goals, atLeast("once running, "+t.Title+", to the program alone", "", 0.98,
				quotient(t.Row(set.ours), t.Row(set.alone))))
		}
	}
	return nil
}
