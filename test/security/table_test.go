package security

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

var write = flag.Bool("write", false, "write what is measured to the table in docs/security.md")

// The table stands between these in docs/security.md.
const (
	tableStart = "<!-- score table -->\n"
	tableEnd   = "<!-- end of score table -->\n"
)

// row is a line of the table: root's answer and the ordinary user's, each written
// by a run as such.
type row struct{ asRoot, asUser string }

// compareTable compares our column of the table with what was measured, or writes
// it. It is the one of amd64; other machines have other calls.
func compareTable(t *testing.T, u unit) {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		return
	}
	path := filepath.Join("..", "..", "docs", "security.md")
	document, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(document), tableStart)
	old, after, ended := strings.Cut(rest, tableEnd)
	if !found || !ended {
		t.Fatalf("%s: no place for the table between %q and %q", path, tableStart, tableEnd)
	}
	table := render(u, parseRows(old))
	if table == old {
		return
	}
	if !*write {
		t.Errorf("%s: the table is not what was measured: go test ./test/security -write, as root and as an ordinary user; measured now:\n%s", path, differences(old, table))
		return
	}
	if err := os.WriteFile(path, []byte(before+tableStart+table+tableEnd+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// differences are the lines of the new table that the old one has not.
func differences(old, table string) string {
	var b strings.Builder
	for line := range strings.Lines(table) {
		if !strings.Contains(old, line) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// parseRows reads what is known by question; the last row is the score.
func parseRows(table string) map[string]row {
	rows := map[string]row{}
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.ReplaceAll(line, `\|`, "\x00"), "|")
		if len(cells) > 6 {
			id := strings.TrimSpace(strings.ReplaceAll(cells[1], "\x00", "|"))
			id = strings.TrimSuffix(strings.TrimPrefix(strings.Trim(id, "`"), "**"), "**")
			rows[id] = row{asRoot: strings.TrimSpace(cells[4]), asUser: strings.TrimSpace(cells[5])}
		}
	}
	return rows
}

func render(u unit, known map[string]row) string {
	var b strings.Builder
	b.WriteString("| question | weight | `PrivateNetwork=yes` | ours, as root | ours, as a user | because |\n| --- | --- | --- | --- | --- | --- |\n")
	for _, q := range questions {
		r := known[q.id].with(cell(q, u))
		because := q.restriction
		if costs(r.asRoot) || costs(r.asUser) {
			because = q.open
		}
		fmt.Fprintf(&b, "| `%s` | %d | %s | %s | %s | %s |\n", strings.ReplaceAll(q.id, "|", `\|`), q.weight, cell(q, privateNetwork), r.asRoot, r.asUser, because)
	}
	r := known["exposure"].with("**" + score(u) + "**")
	fmt.Fprintf(&b, "| **exposure** | | **%s** | %s | %s | of 10.0 |\n", score(privateNetwork), r.asRoot, r.asUser)
	return b.String()
}

// costs reports whether a cell is points.
func costs(cell string) bool { return cell != "" && strings.Trim(cell, "0123456789") == "" }

// with puts what was measured in the column of the user that measured it.
func (r row) with(measured string) row {
	if os.Getuid() == 0 {
		r.asRoot = measured
	} else {
		r.asUser = measured
	}
	return r
}

// cell is an answer: good, or its points, or that it does not apply. The groups of
// an ordinary user are that user's own affair, and other users have others.
func cell(q question, u unit) string {
	switch {
	case q.id == "SupplementaryGroups=" && os.Getuid() != 0 && u["User"] != "":
		return "the user's"
	case q.badness(u) < 0:
		return "n/a"
	case q.points(u) == 0:
		return "✓"
	}
	return fmt.Sprint(q.points(u))
}
