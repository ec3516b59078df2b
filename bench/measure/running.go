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
seal as by default. wrk asks: one thread, 16 connections, or 2 for bulk; a value is the rate of one second. The two take turns,
second by second, on the first processor, and wrk has the second one; all are started anew seven times. What is compared are
the values of each round: the ratio is the median of those of the rounds, and in brackets is where it lies with 95 %
certainty. The service runs before anything is measured. *The program's CPU* is the time that it was on the processor, the
kernel's work for it included, for each answer.

nginx, which makes six system calls for an answer, is there twice more: alone behind a seccomp filter of one instruction,
which allows everything, so that this is what any filter costs; and started by the activator without a filter
(` + "`seal = \"off\"`, `syscalls` and `connect = \"any\"`" + `), so that this is what the hand-over costs.`,
	Run: runRunning,
}

// inTurns is how many rounds a program and the same by us take.
const inTurns = 2 * freshStarts

const (
	goAlone    = "a Go web server alone"
	goOurs     = "the same by activator"
	nginxSolo  = "nginx alone"
	nginxByFDs = "the same by activator (fds)"

	nginxBehind = "nginx alone, behind a filter of one instruction"
	nginxHanded = "the same by activator, without a filter"
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
	{goOurs, true, goServerIn("")},
}

// nginx takes inherited sockets by its own NGINX=FD; and looks for them at the
// address that its configuration listens at.
var nginxServers = []server{
	{nginxSolo, false, nginxAlone},
	{nginxBehind, false, nginxFiltered},
	{nginxHanded, true, nginxOurs("127.0.0.1:PORT", "non_blocking = true\n", "environment = [\"NGINX=3;\"]\n", noFilter)},
	{nginxByFDs, true, nginxOurs("127.0.0.1:PORT", "non_blocking = true\n", "environment = [\"NGINX=3;\"]\n")},
}

// same are the goals of a program that is handed its sockets: as good as the first, which is
// it alone; and by default no worse than behind a filter that forbids nothing.
func same(what string, t report.Table, servers []server) (goals []report.Goal) {
	for _, s := range servers {
		if s.ours {
			goals = append(goals, sameOrMore(t, what+t.Title+", "+s.name+", to "+t.Base, s.name, 0.98))
		}
	}
	for _, s := range servers {
		if t.Base = s.name; s.name == nginxBehind {
			ours := servers[len(servers)-1].name
			goals = append(goals, sameOrMore(t, what+t.Title+", "+ours+", to "+s.name, ours, 0.98))
		}
	}
	return goals
}

func runRunning(b *Bench, p *report.Part) error {
	for _, set := range []struct {
		title   string
		servers []server
	}{
		{"Go: ", goServers},
		{"nginx: ", nginxServers},
	} {
		for _, t := range b.pairs(p, inTurns, set.title, set.servers, keepAlive, bulk) {
			p.Goals = append(p.Goals, same("once running, ", t, set.servers)...)
		}
	}
	return nil
}
