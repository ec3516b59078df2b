package report

import (
	"fmt"
	"io"
	"math"
	"strings"

	"activator/bench/stats"
)

// Document writes the result as Markdown. Pictures are looked for in the folder
// pictures, seen from the document; raw is the path of the JSON, seen from there.
func (r Result) Document(w io.Writer, pictures, raw string) error {
	d := &document{w: w}
	d.line("# Benchmarks")
	d.line("")
	d.line("Written by `make bench`; do not edit. Every figure comes from one run of that command, in which the cases of a")
	d.line("table took turns (A B A B ...). The raw values: [`%s`](%s). Hold two runs against each other with", raw, raw)
	d.line("`make bench-compare A=... B=...`. How it is done: [`bench/README.md`](../bench/README.md).")
	d.line("")
	d.goals(r, pictures)
	d.facts(r)
	for _, p := range r.Parts {
		d.part(p, pictures)
	}
	return d.err
}

// document keeps the first error of writing.
type document struct {
	w   io.Writer
	err error
}

func (d *document) line(format string, args ...any) {
	if d.err == nil {
		_, d.err = fmt.Fprintf(d.w, format+"\n", args...)
	}
}

func (d *document) goals(r Result, pictures string) {
	d.line("## Goals")
	d.line("")
	if r.goals().drawn() {
		d.line("![Goals](%s/%s)", pictures, goalsPicture)
		d.line("")
	}
	d.line("| goal | bound | measured | |")
	d.line("| --- | ---: | ---: | --- |")
	for _, p := range r.Parts {
		for _, g := range p.Goals {
			d.line("| [%s](#%s) | %s | %s | %s |", cell(g.Text), anchor(p.Title), g.bound(), g.measured(), g.verdict())
		}
	}
	d.line("")
}

func (g Goal) bound() string {
	if g.Least {
		return "≥ " + figure(g.Bound, g.Unit)
	}
	return "≤ " + figure(g.Bound, g.Unit)
}

func (g Goal) measured() string {
	if g.Value == nil {
		return "-"
	}
	if g.Low == nil || g.High == nil {
		return figure(*g.Value, g.Unit)
	}
	return strings.TrimSpace(fmt.Sprintf("%.3f (%.3f to %.3f) %s", *g.Value, *g.Low, *g.High, g.Unit))
}

func (g Goal) verdict() string {
	switch v := g.Verdict(); v {
	case "missed":
		return "**missed**"
	case "met":
		return v
	case "undecided":
		return "**undecided**: the bound is within what is uncertain"
	default:
		return v + ": " + cell(g.Absent)
	}
}

func (d *document) facts(r Result) {
	d.line("## Where")
	d.line("")
	d.line("| | |")
	d.line("| --- | --- |")
	d.line("| begun | %s, took %.0f s |", r.Begun.UTC().Format("2006-01-02 15:04 UTC"), r.Seconds)
	for _, f := range append(r.Machine[:len(r.Machine):len(r.Machine)], r.Versions...) {
		d.line("| %s | %s |", cell(f.Name), cell(f.Value))
	}
	d.line("")
}

func (d *document) part(p Part, pictures string) {
	d.line("## %s", p.Title)
	d.line("")
	d.line("%s", p.How)
	d.line("")
	if p.Absent != "" {
		d.line("Not measured: %s.", p.Absent)
		d.line("")
	}
	for i, t := range p.Tables {
		if t.Title != "" {
			d.line("### %s", t.Title)
			d.line("")
		}
		if t.drawn() {
			d.line("![%s](%s/%s)", cell(t.name(p)), pictures, p.picture(i))
			d.line("")
		}
		d.table(t)
	}
}

// name is what a table is called beside those of other parts.
func (t Table) name(p Part) string {
	if t.Title != "" {
		return p.Title + ": " + t.Title
	}
	return p.Title
}

// table is a table of many values, or, where each case has one, a short one.
func (d *document) table(t Table) {
	many := false
	for _, r := range t.Rows {
		many = many || len(r.Values) > 1
	}
	head := []string{"", t.Unit}
	if many {
		head = []string{t.Unit, "median", "min", "90 %", "99 %", "max", "n"}
	}
	if t.Base != "" {
		head = append(head, "to "+t.Base)
	}
	d.line("| %s |", strings.Join(head, " | "))
	d.line("| --- |%s", strings.Repeat(" ---: |", len(head)-1))
	for _, r := range t.Rows {
		d.line("| %s |", strings.Join(t.cells(r, many, len(head)), " | "))
	}
	d.line("")
}

func (t Table) cells(r Row, many bool, columns int) []string {
	name := cell(r.Case)
	if r.Ours {
		name = "**" + name + "**"
	}
	if len(r.Values) == 0 {
		cells := []string{name, "absent: " + cell(r.Absent)}
		return append(cells, make([]string, columns-2)...)
	}
	s := stats.Of(r.Values)
	cells := []string{name, number(s.Median)}
	if many {
		cells = append(cells, number(s.Min), number(s.P90), number(s.P99), number(s.Max), fmt.Sprint(s.N))
	}
	if t.Base != "" {
		cells = append(cells, t.ratioCell(r.Case))
	}
	return cells
}

func (t Table) ratioCell(name string) string {
	switch ratio, lies, ok := t.Ratio(name); {
	case !ok:
		return "-"
	case t.Paired && name != t.Base:
		return fmt.Sprintf("%.3f (%.3f to %.3f)", ratio, lies.Low, lies.High)
	default:
		return fmt.Sprintf("%.2f", ratio)
	}
}

// number has three digits or more that say something.
func number(v float64) string {
	switch a := math.Abs(v); {
	case v == math.Trunc(v) && a < 1e6:
		return fmt.Sprintf("%.0f", v)
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func figure(v float64, unit string) string {
	if unit == "" {
		return fmt.Sprintf("%.2f", v)
	}
	return number(v) + " " + unit
}

// cell is text that cannot end a cell of a table.
func cell(text string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ").Replace(strings.TrimSpace(text))
}

// anchor is what a heading is called in a link, as GitHub does it.
func anchor(title string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(title) {
		switch {
		case r == ' ':
			b.WriteByte('-')
		case r == '-' || r == '_' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			b.WriteRune(r)
		}
	}
	return b.String()
}
