package escape

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"activator/test/escape/wire"
)

// The measured results, one line per probe: what the table of docs/security.md is
// made of. As root and as an ordinary user they are measured in two runs.
const (
	resultsFile = "results.tsv"
	document    = "../../docs/security.md"
	beginMark   = "<!-- escape table -->"
	endMark     = "<!-- end of escape table -->"
)

// columns of results.tsv, after the probe's name.
var columns = []string{"none root", "none user", "bwrap root", "bwrap user", "podman root",
	"activator-podman root", "activator-podman user", "activator root", "activator user"}

const (
	gotOut      = "got out"
	stopped     = "stopped"
	notMeasured = "-"
)

// outcomes are the results of one column by the probe's name.
type outcomes map[string]wire.Result

// table is results.tsv: probe -> column -> cell. A cell is "got out", or "stopped"
// and the errno.
type table map[string]map[string]string

var errnoName = regexp.MustCompile(`\bE[A-Z0-9]{3,}\b`)

func cell(r wire.Result) string {
	if r.Achieved {
		return gotOut
	}
	return strings.TrimSpace(stopped + " " + errnoName.FindString(r.How))
}

// verdict is a cell without the errno, which may be another on another kernel.
func verdict(cell string) string {
	if strings.HasPrefix(cell, stopped) {
		return stopped
	}
	return cell
}

func readTable() (table, error) {
	text, err := os.ReadFile(resultsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return table{}, nil
	}
	rows := make(table)
	for line := range strings.Lines(string(text)) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if strings.HasPrefix(line, "#") || len(fields) != len(columns)+1 {
			continue
		}
		rows[fields[0]] = make(map[string]string)
		for i, column := range columns {
			rows[fields[0]][column] = fields[i+1]
		}
	}
	return rows, err
}

func (rows table) write(probes []wire.Probe) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# probe\t%s\n", strings.Join(columns, "\t"))
	for _, p := range probes {
		b.WriteString(p.Name)
		for _, column := range columns {
			b.WriteString("\t" + rows.at(p.Name, column))
		}
		b.WriteByte('\n')
	}
	return os.WriteFile(resultsFile, b.Bytes(), 0o644)
}

func (rows table) at(probe, column string) string {
	if c := rows[probe][column]; c != "" {
		return c
	}
	return notMeasured
}

// compare fails where what is measured is not what the table says; with -write it
// changes the table instead. On another machine a probe may be excused, or not promised
// to be stopped, that is neither here: then nothing is compared.
func compare(t *testing.T, name string, measured outcomes) {
	t.Helper()
	column := name + " root"
	if os.Getuid() != 0 {
		column = name + " user"
	}
	if !slices.Contains(columns, column) {
		t.Fatalf("no column %q", column)
	}
	rows, err := readTable()
	if err != nil {
		t.Fatal(err)
	}
	for probe, r := range measured {
		if *write {
			if rows[probe] == nil {
				rows[probe] = make(map[string]string)
			}
			rows[probe][column] = cell(r)
			continue
		}
		was := verdict(rows.at(probe, column))
		if now := verdict(cell(r)); now != was && !excusedHere(t, name, r) {
			t.Errorf("%s, %s: %s in the table, now %s (%s): `make escape` writes the table anew", probe, column, was, now, r.How)
		}
	}
	if !*write {
		return
	}
	all := allProbes(t)
	if err := errors.Join(rows.write(all), rows.document(all)); err != nil {
		t.Fatal(err)
	}
}

func excusedHere(t *testing.T, name string, r wire.Result) bool {
	if strings.HasPrefix(name, "activator") {
		return slices.Contains(passedHere(), r.Probe)
	}
	return name == "none" && r.Achieved || excuse(t, r) != ""
}

// render is the table as Markdown.
func (rows table) render(probes []wire.Probe) string {
	var b strings.Builder
	shown := []struct{ title, root, user string }{
		{"no isolation", "none root", "none user"},
		{"bwrap", "bwrap root", "bwrap user"},
		{"podman", "podman root", "podman root"},
		{"activator, podman", "activator-podman root", "activator-podman user"},
		{"activator, root", "activator root", "activator root"},
		{"activator, user", "activator user", "activator user"},
	}
	b.WriteString("| what the intruder tries | achieved is |")
	for _, s := range shown {
		b.WriteString(" " + s.title + " |")
	}
	b.WriteString("\n| --- | --- |" + strings.Repeat(" --- |", len(shown)) + "\n")
	group := ""
	out := make([]int, len(shown))
	for _, p := range probes {
		if p.Group != group {
			group = p.Group
			fmt.Fprintf(&b, "| **%s** | |%s\n", group, strings.Repeat(" |", len(shown)))
		}
		fmt.Fprintf(&b, "| %s | %s |", p.Tries, p.Means)
		for i, s := range shown {
			root, user := rows.at(p.Name, s.root), rows.at(p.Name, s.user)
			if root == gotOut || user == gotOut {
				out[i]++
			}
			b.WriteString(" " + both(root, user) + " |")
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "| **of %d ways got out** | |", len(probes))
	for _, n := range out {
		fmt.Fprintf(&b, " **%d** |", n)
	}
	return b.String() + "\n"
}

// both is one cell for what root and an ordinary user measure.
func both(root, user string) string {
	mark := func(cell string) string {
		if cell == gotOut {
			return "**got out**"
		}
		return cell
	}
	switch {
	case verdict(root) == verdict(user), user == notMeasured:
		return mark(root)
	case root == notMeasured:
		return mark(user)
	}
	return "root " + mark(root) + ", user " + mark(user)
}

// document puts the table between its marks.
func (rows table) document(probes []wire.Probe) error {
	text, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(text), beginMark)
	_, after, found2 := strings.Cut(rest, endMark)
	if !found || !found2 {
		return fmt.Errorf("%s: no marks %q and %q", document, beginMark, endMark)
	}
	return os.WriteFile(document, []byte(before+beginMark+"\n"+rows.render(probes)+endMark+after), 0o644)
}

// The document says what was measured.
func TestDocument(t *testing.T) {
	rows, err := readTable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	if want := beginMark + "\n" + rows.render(allProbes(t)) + endMark; !strings.Contains(string(text), want) {
		t.Errorf("%s is not what %s says: `make escape` writes it", document, resultsFile)
	}
}
