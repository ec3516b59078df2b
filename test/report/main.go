// Command report reads what `go test -json` prints and prints what `go test` would:
// a line a package, and of the tests that failed all they said. In the end it counts:
// how many tests ran, how many were skipped and why. A test that has subtests is not
// counted, they are. Those that failed are named once more. The exit code is 1 unless
// everything passed.
//
//	go test -json ./... | report -title "as root" -to FILE
//
// -to appends the count to a file, for a page that shows several of them together.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// event is of test2json, go doc cmd/test2json.
type event struct {
	Action, Package, ImportPath, Test, Output string
	Elapsed                                   float64
}

// test is a package's, or the package itself with the name "".
type test struct{ pkg, name string }

type report struct {
	out    io.Writer
	said   map[test]*strings.Builder // of what has not ended
	parent map[test]bool             // has subtests
	ended  map[test]string           // its action: pass, fail or skip
	why    map[test]string           // of the skipped
	failed bool
}

func newReport(out io.Writer) *report {
	return &report{out: out, said: make(map[test]*strings.Builder), parent: make(map[test]bool), ended: make(map[test]string), why: make(map[test]string)}
}

func main() {
	title := flag.String("title", "", "whose tests these are")
	to := flag.String("to", "", "the file to append the count to")
	flag.Parse()
	r := newReport(os.Stdout)
	if err := r.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		r.failed = true
	}
	count := r.count(*title)
	fmt.Print(count)
	if *to != "" {
		if err := appendTo(*to, count); err != nil {
			fmt.Fprintln(os.Stderr, err)
			r.failed = true
		}
	}
	if r.failed || len(r.ended) == 0 {
		os.Exit(1)
	}
}

func appendTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(text); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// read reads to the end. What is no event is passed on: go itself has said it.
func (r *report) read(from io.Reader) error {
	lines := bufio.NewReader(from)
	for {
		line, err := lines.ReadBytes('\n')
		var e event
		if len(line) > 0 {
			if json.Unmarshal(line, &e) != nil || e.Action == "" {
				fmt.Fprintf(r.out, "%s", line)
			} else {
				r.take(e)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *report) take(e event) {
	at := test{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "build-fail":
		r.failed = true
	case "run":
		for name := e.Test; strings.Contains(name, "/"); {
			name = name[:strings.LastIndexByte(name, '/')]
			r.parent[test{e.Package, name}] = true
		}
	case "output":
		if r.said[at] == nil {
			r.said[at] = new(strings.Builder)
		}
		r.said[at].WriteString(e.Output)
	case "pass", "fail", "skip":
		r.end(at, e)
	}
}

// end prints what a test that failed has said, and of a package its last line.
func (r *report) end(at test, e event) {
	text := ""
	if b := r.said[at]; b != nil {
		text = b.String()
		delete(r.said, at)
	}
	r.ended[at] = e.Action
	switch {
	case e.Action == "fail":
		r.failed = true
		if at.name == "" {
			r.cutShort(at.pkg)
		}
		fmt.Fprint(r.out, text)
	case at.name == "":
		fmt.Fprint(r.out, lastLine(text))
	case e.Action == "skip":
		r.why[at] = reason(text)
	}
}

// cutShort prints what tests have said that did not end: the process is gone, or hung.
func (r *report) cutShort(pkg string) {
	for at, b := range r.said {
		if at.pkg == pkg {
			fmt.Fprint(r.out, b)
			r.ended[at] = "fail"
			delete(r.said, at)
		}
	}
}

func lastLine(text string) string {
	all := strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n")
	return all[len(all)-1] + "\n"
}

// reason is what a test that is skipped said last, without where.
func reason(text string) string {
	why := "without a word"
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "=== ") || strings.HasPrefix(line, "--- ") {
			continue
		}
		if place, rest, ok := strings.Cut(line, ": "); ok && strings.Contains(place, ".go:") {
			line = rest
		}
		why = line
	}
	return why
}

// count is how many tests ran, which failed, and why others did not run.
func (r *report) count(title string) string {
	n := make(map[string]int)
	reasons := make(map[string][]string)
	var failed []string
	for at, action := range r.ended {
		if at.name == "" || r.parent[at] && action != "skip" {
			continue
		}
		n[action]++
		switch action {
		case "skip":
			reasons[r.why[at]] = append(reasons[r.why[at]], at.name)
		case "fail":
			failed = append(failed, at.pkg+" "+at.name)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "tests %s: %d ran, %d of them failed; %d were skipped\n", title, n["pass"]+n["fail"], n["fail"], n["skip"])
	for at, action := range r.ended { // what is left behind is the package's own failure
		if at.name == "" && action == "fail" && !slices.ContainsFunc(failed, func(name string) bool { return strings.HasPrefix(name, at.pkg+" ") }) {
			failed = append(failed, at.pkg)
		}
	}
	for _, name := range slices.Sorted(slices.Values(failed)) {
		fmt.Fprintf(&b, "  failed: %s\n", name)
	}
	for _, why := range slices.Sorted(maps.Keys(reasons)) {
		names := reasons[why]
		slices.Sort(names)
		list := strings.Join(names[:min(3, len(names))], ", ")
		if len(names) > 3 {
			list += ", ..."
		}
		fmt.Fprintf(&b, "  %d skipped: %s (%s)\n", len(names), why, list)
	}
	return b.String()
}
