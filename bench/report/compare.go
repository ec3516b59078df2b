package report

import (
	"fmt"
	"io"

	"activator/bench/stats"
)

// Compare writes what two runs measured side by side. A case that only one of
// them has is shown too.
func Compare(w io.Writer, a, b Result) error {
	d := &document{w: w}
	d.line("# A and B")
	d.line("")
	d.line("A: %s, B: %s. The ratio is that of the medians; a star says that it is out of what A's own", stamp(a), stamp(b))
	d.line("values (10 to 90 %%; of a single one, a tenth) would explain.")
	d.line("")
	d.compareGoals(a, b)
	for _, pa := range a.Parts {
		pb := find(b.Parts, pa.Name)
		for _, ta := range pa.Tables {
			d.compareTable(pa, ta, findTable(pb, ta.Title))
		}
	}
	for _, pb := range b.Parts {
		for _, tb := range pb.Tables {
			if findTable(find(a.Parts, pb.Name), tb.Title).Rows == nil {
				d.compareTable(pb, Table{Title: tb.Title, Unit: tb.Unit}, tb)
			}
		}
	}
	return d.err
}

func stamp(r Result) string { return r.Begun.UTC().Format("2006-01-02 15:04") }

func find(parts []Part, name string) Part {
	for _, p := range parts {
		if p.Name == name {
			return p
		}
	}
	return Part{}
}

func findTable(p Part, title string) Table {
	for _, t := range p.Tables {
		if t.Title == title {
			return t
		}
	}
	return Table{}
}

func (d *document) compareGoals(a, b Result) {
	d.line("| goal | bound | A | B |")
	d.line("| --- | ---: | ---: | ---: |")
	seen := make(map[string]bool)
	for _, r := range []Result{a, b} {
		for _, p := range r.Parts {
			for _, g := range p.Goals {
				if seen[g.Text] {
					continue
				}
				seen[g.Text] = true
				d.line("| %s | %s | %s | %s |", cell(g.Text), g.bound(), goalOf(a, g.Text), goalOf(b, g.Text))
			}
		}
	}
	d.line("")
}

func goalOf(r Result, text string) string {
	for _, p := range r.Parts {
		for _, g := range p.Goals {
			if g.Text == text {
				return fmt.Sprintf("%s %s", g.measured(), g.Verdict())
			}
		}
	}
	return "-"
}

func (d *document) compareTable(p Part, a, b Table) {
	d.line("## %s", a.name(p))
	d.line("")
	d.line("| %s | A | B | B / A | |", a.Unit)
	d.line("| --- | ---: | ---: | ---: | --- |")
	rows := a.Rows[:len(a.Rows):len(a.Rows)]
	for _, r := range b.Rows {
		if a.Row(r.Case).Absent == "not among the cases" {
			rows = append(rows, Row{Case: r.Case})
		}
	}
	for _, r := range rows {
		d.line("| %s |", compareRow(r, b.Row(r.Case)))
	}
	d.line("")
}

func compareRow(a, b Row) string {
	sa, sb := stats.Of(a.Values), stats.Of(b.Values)
	switch {
	case sa.N == 0 && sb.N == 0:
		return cell(a.Case) + " | - | - | - | "
	case sa.N == 0:
		return fmt.Sprintf("%s | - | %s | - | ", cell(a.Case), number(sb.Median))
	case sb.N == 0:
		return fmt.Sprintf("%s | %s | - | - | ", cell(a.Case), number(sa.Median))
	case sa.Median == 0:
		return fmt.Sprintf("%s | 0 | %s | - | ", cell(a.Case), number(sb.Median))
	}
	star := ""
	least, most := sa.P10, sa.P90
	if sa.N == 1 { // it says nothing of its own noise
		least, most = 0.9*sa.Median, 1.1*sa.Median
	}
	if sb.Median > most || sb.Median < least {
		star = "*"
	}
	return fmt.Sprintf("%s | %s | %s | %.2f | %s", cell(a.Case), number(sa.Median), number(sb.Median), sb.Median/sa.Median, star)
}
