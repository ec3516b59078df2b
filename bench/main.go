// Command bench measures us and our peers at the same work and writes
// docs/benchmarks.md.
//
//	bench [-only NAME,...] [-scale 0.1]      measure
//	bench document RESULT.json               write the document anew
//	bench compare A.json B.json              hold two runs against each other
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"activator/bench/measure"
	"activator/bench/report"
	"activator/bench/stand"
)

func main() {
	if stand.IsBehind() {
		stand.RunBehind()
	}
	if stand.IsService() {
		stand.Serve()
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	bin, results, docs string
	only               string
	scale              float64
	limit              time.Duration
	pictures           string
}

func run(args []string) error {
	var o options
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	flags.StringVar(&o.bin, "bin", "../bin", "where activator and echo are")
	flags.StringVar(&o.results, "results", "", "folder for the raw values; default: results, of a part of a run ../bin/benchmarks")
	flags.StringVar(&o.docs, "docs", "", "folder for benchmarks.md and its pictures; default: ../docs, of a part of a run ../bin/benchmarks")
	flags.StringVar(&o.only, "only", "", "names of measurements, with commas; others are not taken")
	flags.Float64Var(&o.scale, "scale", 1, "of all counts of rounds; less than 1 is for trying")
	flags.DurationVar(&o.limit, "limit", 14*time.Minute, "what is not measured by then is left out, and the document says so")
	flags.StringVar(&o.pictures, "pictures", ".svg", "kind of the pictures; others than .svg are for looking at")
	if err := flags.Parse(args); err != nil {
		return err
	}
	o.places()
	switch rest := flags.Args(); {
	case len(rest) == 0:
		return o.measure()
	case rest[0] == "document" && len(rest) == 2:
		r, err := report.Read(rest[1])
		if err != nil {
			return err
		}
		return o.document(r, rest[1])
	case rest[0] == "compare" && len(rest) == 3:
		return compare(rest[1], rest[2])
	}
	return errors.New("usage: bench [options] | document RESULT.json | compare A.json B.json")
}

// places fills in the folders: what was measured in part is not for the document.
func (o *options) places() {
	results, docs := "results", "../docs"
	if o.only != "" || o.scale != 1 {
		results, docs = "../bin/benchmarks", "../bin/benchmarks"
	}
	if o.results == "" {
		o.results = results
	}
	if o.docs == "" {
		o.docs = docs
	}
}

func compare(a, b string) error {
	ra, err := report.Read(a)
	if err != nil {
		return err
	}
	rb, err := report.Read(b)
	if err != nil {
		return err
	}
	return report.Compare(os.Stdout, ra, rb)
}

// measure takes all measurements. Where time is short the document says what was
// not measured; an interrupted run leaves everything as it was.
func (o options) measure() error {
	interrupted, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(interrupted, o.limit, fmt.Errorf("the %v of a run were over", o.limit))
	defer cancel()
	r := report.Result{Begun: time.Now().UTC().Truncate(time.Second), Machine: stand.Machine()}
	w, err := stand.Open(ctx, o.bin)
	if err != nil {
		return err
	}
	defer w.Close()
	r.Versions = w.Versions()
	chosen, err := o.chosen()
	if err != nil {
		return err
	}
	b := &measure.Bench{World: w, Scale: o.scale, Progress: func(format string, args ...any) {
		fmt.Printf("%4.0f s  %s\n", time.Since(r.Begun).Seconds(), fmt.Sprintf(format, args...))
	}}
	for _, m := range chosen {
		r.Parts = append(r.Parts, b.Run(m))
		if err := interrupted.Err(); err != nil {
			return errors.New("interrupted, nothing is written")
		}
	}
	r.Seconds = time.Since(r.Begun).Round(time.Second).Seconds()
	if err := os.MkdirAll(o.results, 0o755); err != nil {
		return err
	}
	raw := filepath.Join(o.results, r.Begun.Format("2006-01-02T1504")+".json")
	if err := r.Write(raw); err != nil {
		return err
	}
	return o.document(r, raw)
}

func (o options) chosen() ([]measure.Measurement, error) {
	all := measure.All()
	if o.only == "" {
		return all, nil
	}
	var chosen []measure.Measurement
	for _, name := range strings.Split(o.only, ",") {
		i := slices.IndexFunc(all, func(m measure.Measurement) bool { return m.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("no measurement %q", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// document writes the document and its pictures, in place of all former ones.
func (o options) document(r report.Result, raw string) error {
	pictures := filepath.Join(o.docs, "benchmarks")
	if err := os.RemoveAll(pictures); err != nil {
		return err
	}
	if err := r.Draw(pictures, o.pictures); err != nil {
		return err
	}
	path := filepath.Join(o.docs, "benchmarks.md")
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	link, err := relative(o.docs, raw)
	if err == nil {
		err = r.Document(f, "benchmarks", link)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	fmt.Println("written:", path, raw)
	return nil
}

func relative(from, to string) (string, error) {
	from, err := filepath.Abs(from)
	if err != nil {
		return "", err
	}
	if to, err = filepath.Abs(to); err != nil {
		return "", err
	}
	return filepath.Rel(from, to)
}
