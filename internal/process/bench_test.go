package process

import (
	"slices"
	"testing"
	"time"

	"activator/internal/spec"
)

// BenchmarkStart is the life of the shortest service: prepare is what a warm
// sandbox has behind it, go what a client waits for then.
func BenchmarkStart(b *testing.B) {
	for _, bench := range []struct {
		name string
		bare bool
	}{{"sandbox", false}, {"bare", true}} {
		b.Run(bench.name, func(b *testing.B) {
			s := starterFor()
			defer s.Close()
			process := spec.Process{Name: "bench", Argv: []string{"/bin/true"}, Bare: bench.bare, Sandbox: spec.Sandbox{Seal: true}}
			var prepare, start time.Duration
			for b.Loop() {
				from := time.Now()
				p, err := s.Prepare(b.Context(), process, Inputs{})
				if err != nil {
					b.Fatal(err)
				}
				ready := time.Now()
				if err := p.Go(b.Context()); err != nil {
					b.Fatal(err)
				}
				prepare += ready.Sub(from)
				start += time.Since(ready)
				if err := p.Close(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(prepare.Microseconds())/float64(b.N), "us/prepare")
			b.ReportMetric(float64(start.Microseconds())/float64(b.N), "us/go")
		})
	}
}

// BenchmarkRestrictions is the same life with the filter and Landlock and without them, in
// turn, so that both meet the same machine. Medians; take -benchtime 400x or so.
func BenchmarkRestrictions(b *testing.B) {
	s := starterFor()
	defer s.Close()
	boxes := map[string]spec.Sandbox{"restricted": {Seal: true}, "open": {Syscalls: "any", Connect: "any"}}
	times := map[string][]time.Duration{}
	for b.Loop() {
		for name, box := range boxes {
			from := time.Now()
			p, err := s.Prepare(b.Context(), spec.Process{Name: "bench", Argv: []string{"/bin/true"}, Sandbox: box}, Inputs{})
			if err != nil {
				b.Fatal(err)
			}
			if err := p.Go(b.Context()); err != nil {
				b.Fatal(err)
			}
			if _, err := p.Wait(); err != nil {
				b.Fatal(err)
			}
			times[name] = append(times[name], time.Since(from))
			if err := p.Close(); err != nil {
				b.Fatal(err)
			}
		}
	}
	for name, list := range times {
		slices.Sort(list)
		b.ReportMetric(float64(list[len(list)/2].Microseconds()), "us/"+name)
	}
}
