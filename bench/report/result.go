// Package report keeps what was measured: as JSON, as a document with pictures,
// and held against another run.
package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"activator/bench/stats"
)

// Result is one run of all measurements.
type Result struct {
	Begun    time.Time `json:"begun"`
	Seconds  float64   `json:"seconds"` // the run took
	Machine  []Fact    `json:"machine"`
	Versions []Fact    `json:"versions"`
	Parts    []Part    `json:"parts"`
}

// Fact is something that was found out about the machine.
type Fact struct{ Name, Value string }

// Part is one measurement, a chapter of the document.
type Part struct {
	Name    string  `json:"name"` // of its pictures, and for -only
	Title   string  `json:"title"`
	How     string  `json:"how"` // what is between start and stop of a measured time
	Seconds float64 `json:"seconds"`
	Tables  []Table `json:"tables"`
	Goals   []Goal  `json:"goals,omitempty"`
	Absent  string  `json:"absent,omitempty"` // why nothing could be measured; empty: it was
}

// Picture is how a table is drawn.
type Picture string

// The kinds of pictures. An empty one is none.
const (
	Bars         Picture = "bars"         // a bar for each median, a line from the least to the 90th percentile
	LogBars      Picture = "log bars"     // the same, where cases are orders of magnitude apart
	Distribution Picture = "distribution" // how many of a case's values were below
	Steps        Picture = "steps"        // the medians one behind the other, in one bar
)

// Table is the same work by several.
type Table struct {
	Title   string  `json:"title"`
	Unit    string  `json:"unit"`
	Base    string  `json:"base,omitempty"`   // the case that ratios are to; empty: none are shown
	Paired  bool    `json:"paired,omitempty"` // ratios are those of the rounds, each of one round's two values
	Picture Picture `json:"picture,omitempty"`
	Rows    []Row   `json:"rows"`
}

// Row is one case of a table.
type Row struct {
	Case   string    `json:"case"`
	Ours   bool      `json:"ours,omitempty"`
	Values []float64 `json:"values,omitempty"` // in the order they were measured
	Absent string    `json:"absent,omitempty"` // why there are no values
}

// Goal is a bound and what was measured.
type Goal struct {
	Text   string   `json:"text"`
	Unit   string   `json:"unit,omitempty"` // empty: a ratio
	Value  *float64 `json:"value,omitempty"`
	Low    *float64 `json:"low,omitempty"`   // where the value lies with 95 % certainty; nil: not known
	High   *float64 `json:"high,omitempty"`  // likewise
	Least  bool     `json:"least,omitempty"` // the bound is the least, not the most
	Bound  float64  `json:"bound"`
	Absent string   `json:"absent,omitempty"` // why there is no value
}

// Verdict is the word for a goal: met, missed, undecided or not measured. Where it is
// known how certain the value is, only what misses the bound for certain is missed.
func (g Goal) Verdict() string {
	reaches := func(v float64) bool { return g.Least && v >= g.Bound || !g.Least && v <= g.Bound }
	switch {
	case g.Value == nil:
		return "not measured"
	case reaches(*g.Value):
		return "met"
	case g.Low == nil || g.High == nil || !reaches(*g.Low) && !reaches(*g.High):
		return "missed"
	}
	return "undecided"
}

// Ratio is what a case is to the base, and how certainly; false where there is none.
func (t Table) Ratio(name string) (ratio float64, lies stats.Interval, ok bool) {
	of, to := t.Row(name).Values, t.Row(t.Base).Values
	if !t.Paired {
		base := stats.Of(to).Median
		return stats.Of(of).Median / base, lies, base > 0 && len(of) > 0
	}
	ratios := stats.Ratios(of, to)
	if len(ratios) == 0 {
		return 0, lies, false
	}
	return stats.Median(ratios), stats.MedianInterval(ratios), true
}

// Row finds a case; the zero Row, without values, where there is none.
func (t Table) Row(name string) Row {
	for _, r := range t.Rows {
		if r.Case == name {
			return r
		}
	}
	return Row{Case: name, Absent: "not among the cases"}
}

// numbers is an array of nothing but numbers, which JSON would put on a line each.
var numbers = regexp.MustCompile(`\[[-+0-9.eE,\s]+\]`)

// Write writes the result to a file, every array of numbers on one line.
func (r Result) Write(path string) error {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	text = numbers.ReplaceAllFunc(text, func(array []byte) []byte {
		return bytes.ReplaceAll([]byte(strings.Join(strings.Fields(string(array)), "")), []byte(","), []byte(", "))
	})
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// Read reads what Write wrote.
func Read(path string) (Result, error) {
	var r Result
	text, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}
