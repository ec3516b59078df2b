package main

import (
	"os"
	"strings"
	"testing"

	"activator/internal/ktest"
	"activator/test/kernels/plan"
)

func TestMain(m *testing.M) { ktest.Main(m) }

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The document says what was measured, of every boot, and nothing in it is wrong.
func TestDocument(t *testing.T) {
	t.Chdir("../..")
	all, err := readRows(resultsFile)
	if err != nil {
		t.Fatal(err)
	}
	if want := beginMark + "\n" + all.markdown() + endMark; !strings.Contains(readFile(t, document), want) {
		t.Errorf("%s is not what %s says: `make test-kernels ALL=1` writes it", document, resultsFile)
	}
	if want := all.merge(nil); len(all) != len(want) {
		t.Errorf("%d rows of results, want %d: `make test-kernels ALL=1`", len(all), len(want))
	}
	for _, r := range all {
		if strings.Contains(strings.Join(r, " "), "WRONG") {
			t.Errorf("wrong: %q", r)
		}
	}
}

// The README's first screen names the kernels that it was run on, and no others.
func TestReadmeNamesKernels(t *testing.T) {
	t.Chdir("../..")
	screen, _, found := strings.Cut(readFile(t, "README.md"), "\n## ")
	_, said, named := strings.Cut(screen, "Run on Linux ")
	if said, _, _ = strings.Cut(said, ":"); !found || !named {
		t.Fatal("the first screen does not say what it was run on")
	}
	all, err := readRows(resultsFile)
	if err != nil {
		t.Fatal(err)
	}
	run := make(map[string]bool)
	for _, r := range all {
		name := r[0] + " " + r[1]
		run[name] = run[name] || r[notRun] != "not run"
	}
	for name, was := range run {
		if strings.Contains(said, name) != was {
			t.Errorf("%q is run: %v, and the first screen says %q", name, was, said)
		}
	}
}

func TestRecordSurvivesTheConsole(t *testing.T) {
	sent := plan.Record{User: plan.Root, Step: plan.Lines, Got: 9, Want: 10, Said: []string{"a line\nand \"another\""}}
	got, ok := plan.Parse("[    3.2] the kernel says this first: " + sent.Format())
	if !ok || got.Got != 9 || len(got.Said) != 1 || got.Said[0] != sent.Said[0] || got.OK() {
		t.Errorf("%+v, %v", got, ok)
	}
	for _, line := range []string{"", "hello", "@@record", "@@record {\"Got\":"} {
		if r, ok := plan.Parse(line); ok {
			t.Errorf("%q is a record: %+v", line, r)
		}
	}
}

// A new row takes the place of the old one, and what is no boot's any more goes.
func TestMerge(t *testing.T) {
	row := func(lines string) []string {
		return []string{amd61.name, amd61.arch, "as Debian has it", plan.Root, "r", lines, "0 of 1", "as it should be"}
	}
	gone := []string{"2.4", "amd64", "as Debian has it", plan.Root, "r", "10 of 10", "0 of 1", "as it should be"}
	merged := rows{row("10 of 10")}.merge(rows{gone, row("9 of 10")})
	if merged[0][5] != "10 of 10" {
		t.Errorf("%q", merged[0])
	}
	for _, r := range merged[1:] {
		if r[notRun] != "not run" {
			t.Errorf("%q was not run", r)
		}
	}
}

// A record that is missing is as wrong as one that says so.
func TestJudge(t *testing.T) {
	p := boots[0].plan(socatTimeout)
	var o outcome
	for _, user := range []string{plan.Root, plan.User} {
		for _, step := range p.Steps {
			o.records = append(o.records, plan.Record{User: user, Step: step, Got: 1, Want: 1})
		}
	}
	if o.judge(p); len(o.wrong) > 0 {
		t.Errorf("wrong: %q", o.wrong)
	}
	o.records[1].Out = 1
	o.records = o.records[1:]
	if o.judge(p); len(o.wrong) != 2 {
		t.Errorf("wrong: %q, want a missing record and a way out", o.wrong)
	}
}

// What cannot be had is not run, and in CI a failure.
func TestAbsentKernel(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // no apt
	m := &machine{cache: t.TempDir(), built: make(map[string]string)}
	t.Setenv("CI", "")
	if o := m.boot(t.Context(), boots[0]); o.notRun == "" || len(o.wrong) > 0 {
		t.Errorf("not run: %q, wrong: %q", o.notRun, o.wrong)
	}
	t.Setenv("CI", "true")
	if o := m.boot(t.Context(), boots[0]); len(o.wrong) != 1 {
		t.Errorf("in CI: %q", o.wrong)
	}
}
