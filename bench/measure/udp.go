package measure

import (
	"fmt"
	"time"

	"activator/bench/report"
	"activator/bench/stand"
	"activator/bench/stats"
)

var udp = Measurement{
	Name:  "udp",
	Title: "UDP",
	How: `One client sends 64 bytes to the running ` + "`bin/echo`" + `, waits for the answer and sends the next: from before send(2) to
after recv(2). A value is the median of 500 in a row. As root the seal is a program in the kernel; an ordinary user's goes
through a relay, which costs four more wake-ups.`,
	Run: runUDP,
}

const (
	udpBare     = bare
	udpBPF      = "activator, sealed by BPF (root)"
	udpOff      = "activator, seal = \"off\""
	udpUserOff  = "activator, seal = \"off\" (user)"
	udpUser     = "activator, sealed by relay (user)"
	udpInARound = 500
)

var udpCases = []contender{
	{udpBare, false, udpPeer},
	{udpOff, true, udpOurs(asSelf, unsealed)},
	{udpBPF, true, udpOurs(asRoot, "")},
	{udpUserOff, true, udpOurs(asUser, unsealed)},
	{udpUser, true, udpOurs(asUser, "")},
}

// echoing is a service that runs and echoes datagrams.
type echoing struct {
	process *stand.Process
	port    int
}

func (e *echoing) close() { e.process.Stop() }

func (e *echoing) measure() (float64, error) {
	took, err := stand.Echoes(e.port, udpInARound)
	if err != nil {
		return 0, err
	}
	values := make([]float64, len(took))
	for i, d := range took {
		values[i] = float64(d.Nanoseconds()) / float64(time.Microsecond)
	}
	return stats.Median(values), nil
}

// started asks once, which starts the service.
func started(p *stand.Process, port int) (bout, error) {
	if _, err := stand.Echoes(port, 10); err != nil {
		p.Stop()
		return nil, err
	}
	return &echoing{p, port}, nil
}

func udpPeer(b *Bench) (bout, error) {
	port := stand.Port()
	p, err := b.Start(stand.Self, nil, "systemd-socket-activate", "--datagram", "-l", fmt.Sprintf("127.0.0.1:%d", port), b.Program("echo"))
	if err != nil {
		return nil, err
	}
	if _, err := p.Next("Listening on"); err != nil {
		p.Stop()
		return nil, err
	}
	return started(p, port)
}

func udpOurs(as func(*Bench) (*stand.Person, error), more string) func(*Bench) (bout, error) {
	return func(b *Bench) (bout, error) {
		who, err := as(b)
		if err != nil {
			return nil, err
		}
		port := stand.Port()
		p, err := b.Activator(who, fmt.Sprintf("[[socket]]\nlisten = [\"udp://127.0.0.1:%d\"]\n[service]\nexec = [%q]\n%s", port, b.Program("echo"), more))
		if err != nil {
			return nil, err
		}
		return started(p, port)
	}
}

func runUDP(b *Bench, p *report.Part) error {
	t := report.Table{Title: "Round trip of a datagram", Unit: "µs", Base: udpBare, Picture: report.Bars}
	t.Rows = b.alternate(b.rounds(20), udpCases)
	p.Tables = append(p.Tables, t)
	return nil
}
