package main

import (
	"testing"

	"activator/internal/ktest"
	"activator/test/kernels/plan"
)

func TestMain(m *testing.M) { ktest.Main(m) }

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
	if len(merged) != 1 || merged[0][5] != "10 of 10" {
		t.Errorf("%q", merged)
	}
}

// A record that is missing is as wrong as one that says so.
func TestJudge(t *testing.T) {
	p := boots[0].plan(1)
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
