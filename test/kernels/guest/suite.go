package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"activator/test/kernels/plan"
)

// socketGroups are the probes' groups that are about what was inherited.
var socketGroups = []string{"TCP", "UDP", "unix", "ioctl", "io_uring", "clients", "poison"}

// runEscape runs the escape suite: what has to work without isolation, and what
// may not in our sandboxes. Peers are not measured here.
func (r *run) runEscape(record *plan.Record) error {
	args := []string{"-test.run", "^(TestWithoutIsolation|TestSandbox.*|TestBoundServes|TestCarriedServes)$"}
	if r.Probes == "sockets" {
		probes, err := socketProbes()
		if err != nil {
			return err
		}
		args = []string{"-test.run", "^(TestWithoutIsolation|TestSandbox|TestSandboxServes)$", "-probes", strings.Join(probes, ",")}
	}
	if err := runTests(record, "test/escape", args...); err == nil || len(failedLeaves(record.Said)) == 0 {
		return err
	}
	return runAgain(record, args)
}

// runAgain runs what failed once more, one after the other: in emulation the tests that
// run at once keep each other waiting, until a client times out. A way out is one
// then too.
func runAgain(record *plan.Record, args []string) error {
	again := plan.Record{Again: failedLeaves(record.Said)}
	args = append(slices.Clone(args), "-test.run", patternOf(again.Again), "-test.parallel", "1")
	err := runTests(&again, "test/escape", args...)
	record.Want, record.Got = record.Got+again.Want, record.Got+again.Got
	record.Out, record.Said, record.Again = again.Out, again.Said, again.Again
	return err
}

// failedLeaves are the tests that failed, without those that did since a part of theirs
// has.
func failedLeaves(said []string) (leaves []string) {
	for _, line := range said {
		name, failed := strings.CutPrefix(line, "test/escape: Test")
		part := func(other string) bool { return strings.HasPrefix(other, line+"/") }
		if failed && !slices.ContainsFunc(said, part) {
			leaves = append(leaves, "Test"+name)
		}
	}
	return leaves
}

// patternOf is what -test.run wants for these tests, and perhaps a few more.
func patternOf(names []string) string {
	var levels [][]string
	for _, name := range names {
		for i, word := range strings.Split(name, "/") {
			if i == len(levels) {
				levels = append(levels, nil)
			}
			levels[i] = append(levels[i], regexp.QuoteMeta(word))
		}
	}
	patterns := make([]string, len(levels))
	for i, words := range levels {
		patterns[i] = "^(" + strings.Join(words, "|") + ")$"
	}
	return strings.Join(patterns, "/")
}

func socketProbes() (names []string, err error) {
	text, err := exec.Command(built("intruder"), "list").Output()
	if err != nil {
		return nil, err
	}
	var all []struct{ Name, Group string }
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, err
	}
	for _, p := range all {
		for _, g := range socketGroups {
			if p.Group == g {
				names = append(names, p.Name)
			}
		}
	}
	return names, nil
}

// runPackages runs the packages' own tests.
func (r *run) runPackages(record *plan.Record) error {
	for _, dir := range r.Packages {
		if err := runTests(record, dir); err != nil {
			record.Said = append(record.Said, err.Error())
		}
	}
	return nil
}

var (
	verdictLine = regexp.MustCompile(`(?m)^\s*--- (PASS|FAIL|SKIP): (\S+)`)
	openLine    = regexp.MustCompile(`open, not promised here: ([a-z-]+):`)
	outLine     = regexp.MustCompile(`(?m)GOT OUT: .*`)
)

// progress keeps what a program prints, and shows on the console that it goes on.
type progress struct{ bytes.Buffer }

func (p *progress) Write(b []byte) (int, error) {
	fmt.Println(plan.Alive())
	return p.Buffer.Write(b)
}

// runTests runs the test binary of a package in the package's folder. What it says
// goes to the console if anything is wrong.
func runTests(record *plan.Record, dir string, args ...string) error {
	binary := built(strings.ReplaceAll(dir, "/", "-") + ".test")
	cmd := exec.Command(binary, append([]string{"-test.v", "-test.timeout=40m", "-test.parallel=4"}, args...)...)
	cmd.Dir = filepath.Join(plan.Home, dir)
	cmd.Env = append(os.Environ(), "TMPDIR=/var/tmp")
	var text progress
	cmd.Stdout, cmd.Stderr = &text, &text
	err := cmd.Run()
	out := text.Bytes()
	results := verdictLine.FindAllStringSubmatch(string(out), -1)
	parents := make(map[string]bool) // a test with parts is not counted beside them
	for _, result := range results {
		if at := strings.LastIndexByte(result[2], '/'); at > 0 {
			parents[result[2][:at]] = true
		}
	}
	for _, result := range results {
		if parents[result[2]] && result[1] != "FAIL" {
			continue
		}
		switch result[1] {
		case "PASS":
			record.Got++
			record.Want++
		case "SKIP":
			record.Skipped++
		case "FAIL":
			record.Want++
			record.Said = append(record.Said, dir+": "+result[2])
		}
	}
	if escaped := outLine.FindAllString(string(out), -1); len(escaped) > 0 {
		record.Out += len(escaped)
		record.Said = append(record.Said, escaped...)
	}
	for _, open := range openLine.FindAllStringSubmatch(string(out), -1) {
		if !slices.Contains(record.Open, open[1]) {
			record.Open = append(record.Open, open[1])
		}
	}
	slices.Sort(record.Open)
	if err != nil {
		fmt.Printf("%s\n", out)
		return fmt.Errorf("%s: %w", dir, err)
	}
	return nil
}
