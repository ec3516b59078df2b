package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"activator/test/kernels/plan"
)

// What -write writes: the results, and the document that has them as a table.
const (
	resultsFile = "test/kernels/results.tsv"
	document    = "docs/kernels.md"
	beginMark   = "<!-- kernels table -->"
	endMark     = "<!-- end of kernels table -->"
)

// heading names the columns. The first four are what a row is known by.
var heading = []string{"kernel", "architecture", "mode", "user", "release", "lines answered", "ways out", "the rest"}

const (
	known  = 4
	notRun = 5 // lines answered: "not run"
)

// rows is the table.
type rows [][]string

// tabulate makes a row of every user of every boot.
func tabulate(outcomes []outcome) (table rows) {
	for _, o := range outcomes {
		mode := o.mode.name
		if mode == "" {
			mode = "as Debian has it"
		}
		if o.notRun != "" {
			table = append(table, []string{o.kernel.name, o.arch, mode, "-", "-", "not run", "not run", strings.Join(strings.Fields(o.notRun), " ")})
			continue
		}
		for _, user := range []string{plan.Root, plan.User} {
			table = append(table, append([]string{o.kernel.name, o.arch, mode, user, o.release}, o.cells(user)...))
		}
	}
	return table
}

// cells are what a user's steps came to.
func (o *outcome) cells(user string) []string {
	if words, refused := o.refused[user]; refused {
		for _, step := range []string{plan.Doctor, plan.Check, plan.Lines} {
			if r := o.find(user, step); r == nil || !r.OK() {
				return []string{"WRONG", "WRONG", "is not refused with its cure"}
			}
		}
		return []string{"refused", "-", "doctor, check and start name " + strings.Join(words, ", ")}
	}
	lines, out, rest := "WRONG", "WRONG", []string{}
	switch {
	case o.noSuite != "":
		out = "not run: " + o.noSuite
	case !slices.Contains(o.steps, plan.Escape):
		out = "not measured yet"
	}
	for _, r := range o.records {
		switch {
		case r.User != user:
		case r.Step == plan.Lines:
			lines = fmt.Sprintf("%d of %d", r.Got, r.Want)
		case r.Step == plan.Escape && !r.OK():
			out = fmt.Sprintf("%d, %d of %d as they should be", r.Out, r.Got, r.Want)
		case r.Step == plan.Escape:
			out = fmt.Sprintf("%d of %d", r.Out, r.Want)
			if o.probes == "sockets" {
				out += ", the socket rows"
			}
			if len(r.Open) > 0 {
				rest = append(rest, "not promised: "+strings.Join(r.Open, ", "))
			}
		case !r.OK():
			rest = append(rest, r.Step+" WRONG")
		case r.Step == plan.Packages:
			rest = append(rest, fmt.Sprintf("%d tests of %d packages", r.Got, len(o.packages)))
		}
	}
	if len(rest) == 0 {
		rest = []string{"as it should be"}
	}
	return []string{lines, out, strings.Join(rest, ", ")}
}

// text is the table for a terminal.
func (t rows) text() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, r := range append(rows{heading}, t...) {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	_ = w.Flush() // memory
	return b.String()
}

// markdown is the table for the document.
func (t rows) markdown() string {
	var b strings.Builder
	for i, r := range append(rows{heading}, t...) {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(r, " | "))
		if i == 0 {
			b.WriteString(strings.Repeat("| --- ", len(r)) + "|\n")
		}
	}
	return b.String()
}

// readRows reads the results that there are.
func readRows(path string) (t rows, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		cells := strings.Split(line, "\t")
		if len(cells) != len(heading) {
			return nil, fmt.Errorf("%s:%d: %d columns, want %d", path, i+1, len(cells), len(heading))
		}
		if i > 0 {
			t = append(t, cells)
		}
	}
	return t, nil
}

// merge returns the old rows with the new ones in their places, in the order of
// boots. A row that is no boot's any more is dropped; what has never been run says so.
func (t rows) merge(old rows) (merged rows) {
	all := make([]outcome, len(boots))
	for i, b := range boots {
		all[i].boot = b
	}
	for _, place := range tabulate(all) {
		if place[notRun] != "not run" {
			place = append(place[:known:known], "-", "not run", "not run", "not measured yet")
		}
		at := len(merged)
		merged = append(merged, place)
		for _, from := range []rows{t, old} {
			if i := slices.IndexFunc(from, func(r []string) bool { return slices.Equal(r[:known], place[:known]) }); i >= 0 {
				merged[at] = from[i]
				break
			}
		}
	}
	return merged
}

// write writes the results and the document's table.
func (t rows) write() error {
	old, err := readRows(resultsFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	all := t.merge(old)
	text := strings.Join(heading, "\t") + "\n"
	for _, r := range all {
		text += strings.Join(r, "\t") + "\n"
	}
	if err := os.WriteFile(resultsFile, []byte(text), 0o644); err != nil {
		return err
	}
	page, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(page), beginMark+"\n")
	_, after, ended := strings.Cut(rest, endMark)
	if !found || !ended {
		return fmt.Errorf("%s: no marks %q and %q", document, beginMark, endMark)
	}
	return os.WriteFile(document, []byte(before+beginMark+"\n"+all.markdown()+endMark+after), 0o644)
}
