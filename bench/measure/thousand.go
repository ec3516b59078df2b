package measure

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"activator/bench/report"
	"activator/bench/stand"
	"activator/bench/stats"
)

var thousand = Measurement{
	Name:  "thousand",
	Title: "A thousand services",
	How: `One activator with 1,000 services of five sockets each, those of ` + "`configs/echo.toml`" + ` (TCP and UDP, v4 and v6, and a
unix stream in memory, as in /run), with ` + "`warm = false`" + `. *Ready*: from before its start to its line "activator ready". *Memory*: PSS of the
activator and its guard, at rest. *Activation*: a cold start, as above, taking turns with an activator that has one such service.
*At once*: one client for each of 200 services, all connecting together; from before the first connect(2) until each has
its byte.`,
	Run: runThousand,
}

const (
	services = 1000
	// at once stays far below what the kernel can take: with very many filters
	// that end together Linux 6.18 stops freeing them (see test/run.sh).
	atOnce = 200
	inHerd = 10 // clients that leave together
)

func runThousand(b *Bench, p *report.Part) error {
	first := stand.Ports(services)
	folder, err := b.Folder(stand.Self)
	if err != nil {
		return err
	}
	if err := configureThousand(b, folder, first); err != nil {
		return err
	}
	ready := report.Table{Title: "Ready", Unit: "s", Rows: []report.Row{{Case: "1,000 services, 5,000 sockets", Ours: true}}}
	var a *stand.Process
	for range b.rounds(5) {
		stop(a)
		begin := time.Now()
		if a, err = b.ActivatorIn(stand.Self, folder); err != nil {
			return err
		}
		ready.Rows[0].Values = append(ready.Rows[0].Values, round3(time.Since(begin).Seconds()))
	}
	defer stop(a)
	p.Tables = append(p.Tables, ready)
	p.Goals = append(p.Goals, atMost("1,000 services x 5 sockets: ready", "s", 1, measured{value: stats.Median(ready.Rows[0].Values)}))
	if err := b.thousandMemory(p, a); err != nil {
		return err
	}
	if err := b.thousandLatency(p, a, first); err != nil {
		return err
	}
	return b.thousandAtOnce(p, first)
}

// configureThousand writes the services, at the ports from first on.
func configureThousand(b *Bench, folder string, first int) error {
	sockets, err := b.MemoryFolder()
	if err != nil {
		return err
	}
	for i := range services {
		name := fmt.Sprintf("s%d", i)
		text := fiveSockets(b, first+i, filepath.Join(sockets, name))
		if err := os.WriteFile(filepath.Join(folder, name+".toml"), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// fiveSockets is a service that ends after each answer.
func fiveSockets(b *Bench, port int, path string) string {
	return fmt.Sprintf("[[socket]]\nlisten = [\"tcp://127.0.0.1:%[1]d\", \"udp://127.0.0.1:%[1]d\", \"tcp://[::1]:%[1]d\", \"udp://[::1]:%[1]d\", \"unix://%[2]s\"]\n"+
		"[service]\nexec = [%[3]q, \"--exit-after\", \"1\"]\nwarm = false\n%[4]s", port, path, b.Program("echo"), stand.Quick)
}

func (b *Bench) thousandMemory(p *report.Part, a *stand.Process) error {
	if err := rest(a.PID()); err != nil {
		return err
	}
	t := report.Table{Title: "Memory", Unit: "PSS, MiB", Rows: []report.Row{
		memoryOf("activator", a.PID()), memoryOf("guard", stand.Guard(a.PID()))}}
	sum := report.Row{Case: "in all", Ours: true}
	for _, r := range t.Rows {
		if r.Absent != "" {
			sum.Absent = r.Case + ": " + r.Absent
			break
		}
		if sum.Values == nil {
			sum.Values = []float64{0}
		}
		sum.Values[0] = round3(sum.Values[0] + r.Values[0])
	}
	t.Rows = append(t.Rows, sum)
	p.Tables = append(p.Tables, t)
	p.Goals = append(p.Goals, atMost("1,000 services x 5 sockets: memory in all, warm = false", "MiB", 40, only(sum)))
	return nil
}

// borrowed is an activation by an activator that another owner stops.
type borrowed struct{ ourActivation }

func (borrowed) close() {}

func (b *Bench) thousandLatency(p *report.Part, a *stand.Process, first int) error {
	const single, many = "one service", "one of 1,000 services"
	t := report.Table{Title: "Activation", Unit: "ms", Base: single, Picture: report.Bars}
	one := &borrowed{ourActivation{process: a, port: first + services/2, ready: "state=listening", first: true}}
	t.Rows = b.alternate(b.rounds(100), []contender{
		{single, true, func(b *Bench) (bout, error) {
			port := stand.Port()
			return openOurs(b, stand.Self, port, false, fiveSockets(b, port, filepath.Join(b.Dir, "single")))
		}},
		{many, true, func(*Bench) (bout, error) { return one, nil }},
	})
	p.Tables = append(p.Tables, t)
	p.Goals = append(p.Goals, ratio(t, "1,000 services: activation, to that of a single service", many, single, 1.2))
	return nil
}

// thousandAtOnce wakes 200 services at the same time.
func (b *Bench) thousandAtOnce(p *report.Part, first int) error {
	took := make([]time.Duration, atOnce)
	failed := make([]error, atOnce)
	conns := make([]stand.Conn, atOnce)
	var all sync.WaitGroup
	begin := time.Now()
	for i := range atOnce {
		all.Go(func() {
			conns[i], _, failed[i] = stand.Ask(first + i)
			took[i] = time.Since(begin)
		})
	}
	all.Wait()
	// They leave a few at a time, and with them their services.
	for i, c := range conns {
		if failed[i] == nil {
			_ = c.Close()
		}
		if i%inHerd == inHerd-1 {
			time.Sleep(100 * time.Millisecond)
		}
	}
	row := report.Row{Case: "200 services woken together", Ours: true}
	m := measured{}
	if err := errors.Join(failed...); err != nil {
		row.Absent = "not all answered: " + strings.SplitN(err.Error(), "\n", 2)[0]
		m.absent = row.Absent
	} else {
		for _, d := range took {
			row.Values = append(row.Values, round3(d.Seconds()))
		}
		m.value = stats.Of(row.Values).Max
	}
	p.Tables = append(p.Tables, report.Table{Title: "At once", Unit: "s", Picture: report.Distribution, Rows: []report.Row{row}})
	p.Goals = append(p.Goals, atMost("200 of 1,000 services woken together: the last has its answer", "s", 2, m))
	return nil
}
