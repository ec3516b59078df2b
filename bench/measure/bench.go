// Package measure is what is measured: a file for each measurement, and in it a
// table of the cases, which is the place to add one.
package measure

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"activator/bench/report"
	"activator/bench/stand"
	"activator/bench/stats"
)

// Bench is a run.
type Bench struct {
	*stand.World
	Scale    float64 // of all counts of rounds; 1: as in the document
	Progress func(format string, args ...any)
}

// Measurement is a chapter of the document.
type Measurement struct {
	Name  string
	Title string
	How   string
	Run   func(*Bench, *report.Part) error
}

// All are the measurements in the order of the document.
func All() []Measurement {
	return []Measurement{cold, tail, wakeup, thousand, idle, idleStop, running, restrictions, udp, bind, proxy, accept}
}

// Run takes one measurement. What fails is said in the part.
func (b *Bench) Run(m Measurement) report.Part {
	p := report.Part{Name: m.Name, Title: m.Title, How: strings.TrimSpace(m.How)}
	begin := time.Now()
	b.Progress("%s", m.Title)
	err := context.Cause(b.Ctx)
	if err == nil {
		err = m.Run(b, &p)
	}
	if err != nil {
		p.Absent = err.Error()
		b.Progress("  not measured: %v", err)
	}
	p.Seconds = time.Since(begin).Round(100 * time.Millisecond).Seconds()
	for _, g := range p.Goals {
		value := "-"
		if g.Value != nil {
			value = fmt.Sprintf("%.3g", *g.Value)
		}
		b.Progress("  %s: %s, bound %g: %s", g.Text, value, g.Bound, g.Verdict())
	}
	return p
}

// rounds is n, scaled, and at least one.
func (b *Bench) rounds(n int) int { return max(1, int(float64(n)*b.Scale)) }

// contender is a case of a table: what does the work.
type contender struct {
	name string
	ours bool
	open func(*Bench) (bout, error)
}

// bout is the work, again and again.
type bout interface {
	measure() (float64, error) // one value
	close()
}

// alternate lets the contenders take turns, each once a round, and returns their
// rows. A contender that is not there is told of, and so is one that fails on the way. When the time
// of the run is over there are fewer rounds.
func (b *Bench) alternate(rounds int, contenders []contender) []report.Row {
	rows := make([]report.Row, len(contenders))
	bouts := make([]bout, len(contenders))
	for i, c := range contenders {
		rows[i] = report.Row{Case: c.name, Ours: c.ours}
		var err error
		if bouts[i], err = c.open(b); err != nil {
			rows[i].Absent = reason(err)
		} else {
			defer bouts[i].close()
		}
	}
	// The collector of this program shall not run while a client waits.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	for round := range rounds {
		if b.Ctx.Err() != nil {
			break
		}
		for turn := range contenders {
			i := (turn + round) % len(contenders) // no contender is always behind the same
			if rows[i].Absent != "" {
				continue
			}
			v, err := bouts[i].measure()
			if err != nil {
				rows[i].Absent, rows[i].Values = fmt.Sprintf("failed in round %d: %s", round+1, reason(err)), nil
				continue
			}
			rows[i].Values = append(rows[i].Values, round3(v))
		}
	}
	for i, r := range rows {
		if r.Absent == "" && len(r.Values) == 0 {
			rows[i].Absent = reason(context.Cause(b.Ctx))
		}
		if r = rows[i]; r.Absent != "" {
			b.Progress("  %-44s absent: %s", r.Case, r.Absent)
			continue
		}
		s := stats.Of(r.Values)
		b.Progress("  %-44s %8.3f  (%.3f to %.3f)", r.Case, s.Median, s.Min, s.Max)
	}
	return rows
}

func reason(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// round3 leaves three decimals: of milliseconds, microseconds.
func round3(v float64) float64 { return float64(int64(v*1000+0.5)) / 1000 }

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

// ratio makes a goal of the medians of two cases.
func ratio(t report.Table, text, of, to string, bound float64) report.Goal {
	return atMost(text, "", bound, quotient(t.Row(of), t.Row(to)))
}

// measured is a value, or why there is none.
type measured struct {
	value  float64
	absent string
}

// quotient divides the medians of two cases.
func quotient(of, to report.Row) measured {
	for _, r := range []report.Row{of, to} {
		if len(r.Values) == 0 {
			return measured{absent: r.Case + ": " + r.Absent}
		}
	}
	a, b := stats.Median(of.Values), stats.Median(to.Values)
	if b == 0 {
		return measured{absent: to.Case + " is 0"}
	}
	return measured{value: a / b}
}

// sameOrMore makes a goal of how much a case has of what the base of a paired table has.
func sameOrMore(t report.Table, text, of string, bound float64) report.Goal {
	ratio, lies, ok := t.Ratio(of)
	if !ok {
		return atLeast(text, "", bound, quotient(t.Row(of), t.Row(t.Base)))
	}
	g := atLeast(text, "", bound, measured{value: ratio})
	low, high := round3(lies.Low), round3(lies.High)
	g.Low, g.High = &low, &high
	return g
}

func atMost(text, unit string, bound float64, m measured) report.Goal {
	g := report.Goal{Text: text, Unit: unit, Bound: bound, Absent: m.absent}
	if m.absent == "" {
		v := round3(m.value)
		g.Value = &v
	}
	return g
}

func atLeast(text, unit string, bound float64, m measured) report.Goal {
	g := atMost(text, unit, bound, m)
	g.Least = true
	return g
}

// stop ends processes, and does nothing for those that never were.
func stop(processes ...*stand.Process) {
	for _, p := range slices.Backward(processes) {
		if p != nil {
			p.Stop()
		}
	}
}

var errNoRoot = errors.New("needs root")
