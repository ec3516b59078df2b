package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var write = flag.Bool("write", false, "write testdata anew")

func value(v float64) *float64 { return &v }

// sample has every kind of table, row and goal.
func sample() Result {
	return Result{
		Begun:    time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Seconds:  61,
		Machine:  []Fact{{"kernel", "6.18 | x86_64"}},
		Versions: []Fact{{"peer", "absent"}},
		Parts: []Part{
			{Name: "cold", Title: "Cold start", How: "From connect(2).", Seconds: 1, Tables: []Table{
				{Unit: "ms", Base: "peer", Picture: Bars, Rows: []Row{
					{Case: "ours", Ours: true, Values: []float64{2.5, 1.5, 2, 1.75, 3}},
					{Case: "peer", Values: []float64{4, 4.5, 5}},
					{Case: "nobody", Absent: "nobody is not | installed"},
				}},
				{Title: "Far apart", Unit: "ms", Picture: LogBars, Rows: []Row{
					{Case: "ours", Ours: true, Values: []float64{2, 3}}, {Case: "peer", Values: []float64{2000, 3000}}}},
				{Title: "Steps", Unit: "µs", Picture: Steps, Rows: []Row{
					{Case: "first", Values: []float64{10}}, {Case: "second", Ours: true, Values: []float64{123.4}}}},
				{Title: "Curve", Unit: "ms", Picture: Distribution, Rows: []Row{
					{Case: "ours", Ours: true, Values: []float64{2, 3, 4}}, {Case: "peer", Values: []float64{3, 4, 9}}}},
				{Title: "Pairs", Unit: "1/s", Base: "peer", Paired: true, Picture: Bars, Rows: []Row{
					{Case: "peer", Values: []float64{100, 200, 100}}, {Case: "ours", Ours: true, Values: []float64{97, 198, 101}}}},
				{Title: "Nobody came", Unit: "ms", Picture: Bars, Rows: []Row{{Case: "nobody", Absent: "gone"}}},
			}, Goals: []Goal{
				{Text: "at most", Value: value(0.42), Bound: 0.9},
				{Text: "too much", Unit: "MiB", Value: value(41), Bound: 40},
				{Text: "at least", Value: value(31), Least: true, Bound: 30},
				{Text: "too little", Value: value(29), Least: true, Bound: 30},
				{Text: "nothing", Bound: 2, Absent: "nobody: gone"},
				{Text: "perhaps too little", Value: value(0.97), Low: value(0.951), High: value(0.985), Least: true, Bound: 0.98},
				{Text: "nobody knows", Value: value(0.97), Low: value(0.8), High: value(1.1), Least: true, Bound: 0.98},
			}},
			{Name: "lost", Title: "Lost", How: "Not at all.", Absent: "needs root"},
		},
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *write {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what it was; if that is right, go test ./report -write. Now:\n%s", path, got)
	}
}

func TestDocument(t *testing.T) {
	var b bytes.Buffer
	if err := sample().Document(&b, "pictures", "../raw.json"); err != nil {
		t.Fatal(err)
	}
	golden(t, "document.md", b.Bytes())
}

type full struct{}

var errFull = errors.New("the disk is full")

func (full) Write([]byte) (int, error) { return 0, errFull }

func TestDocumentSaysThatItIsNotWritten(t *testing.T) {
	if err := sample().Document(full{}, "p", "r"); !errors.Is(err, errFull) {
		t.Errorf("Document: %v", err)
	}
}

func TestCompare(t *testing.T) {
	a, b := sample(), sample()
	rows := b.Parts[0].Tables[0].Rows
	rows[0].Values = []float64{5}
	rows[2] = Row{Case: "new", Values: []float64{1}}
	b.Parts[0].Goals[0].Value = value(1.2)
	b.Parts = append(b.Parts, Part{Name: "more", Title: "More", Tables: []Table{{Unit: "s", Rows: []Row{{Case: "ours", Values: []float64{1}}}}}})
	var out bytes.Buffer
	if err := Compare(&out, a, b); err != nil {
		t.Fatal(err)
	}
	golden(t, "compare.md", out.Bytes())
}

func TestWriteAndRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.json")
	if err := sample().Write(path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "[2.5, 1.5, 2, 1.75, 3]") {
		t.Errorf("the values are not on one line:\n%s", text)
	}
	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, sample()) {
		t.Errorf("read:\n%+v\nwant:\n%+v", got, sample())
	}
}

func TestReadNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.json")
	if err := os.WriteFile(path, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("Read: %v, want %s in it", err, path)
	}
}

// Every table with values that wants a picture has one, well-formed, and the same
// values make the same file.
func TestDraw(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	for _, dir := range []string{first, second} {
		if err := sample().Draw(dir, ".svg"); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"cold.svg", "cold-2.svg", "cold-3.svg", "cold-4.svg", "goals.svg"} {
		svg, err := os.ReadFile(filepath.Join(first, name))
		if err != nil {
			t.Fatal(err)
		}
		wellFormed(t, name, svg)
		again, err := os.ReadFile(filepath.Join(second, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(svg, again) {
			t.Errorf("%s is different each time", name)
		}
		if name != "cold-3.svg" && name != "goals.svg" && !strings.Contains(string(svg), ">ours</text>") {
			t.Errorf("%s does not name a case", name)
		}
	}
	if entries, _ := os.ReadDir(first); len(entries) != 6 {
		t.Errorf("%d pictures, want 6: the last table has no values", len(entries))
	}
}

func wellFormed(t *testing.T, name string, svg []byte) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(svg))
	for {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}

func TestTicks(t *testing.T) {
	for _, test := range []struct {
		from, to float64
		want     string
	}{
		{0, 9, "0 2 4 6 8"},
		{0, 1, "0 0.2 0.4 0.6 0.8 1"},
		{0, 100000, "0 20000 40000 60000 80000 100000"},
		{5, 5, ""},
	} {
		var labels []string
		for _, tick := range (even{}).Ticks(test.from, test.to) {
			labels = append(labels, tick.Label)
		}
		if got := strings.Join(labels, " "); got != test.want {
			t.Errorf("Ticks(%v, %v): %q, want %q", test.from, test.to, got, test.want)
		}
	}
}

func TestAnchor(t *testing.T) {
	for title, want := range map[string]string{
		"Cold start": "cold-start", "handover = \"bind\"": "handover--bind", "accept = true": "accept--true"} {
		if got := anchor(title); got != want {
			t.Errorf("anchor(%q): %q, want %q", title, got, want)
		}
	}
}
