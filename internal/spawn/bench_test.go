package spawn

import (
	"testing"
	"time"
)

// BenchmarkStart is the life of the shortest service: prepare is what a warm
// sandbox has behind it, go what a client waits for then.
func BenchmarkStart(b *testing.B) {
	for _, bench := range []struct {
		name string
		bare bool
	}{{"sandbox", false}, {"bare", true}} {
		b.Run(bench.name, func(b *testing.B) {
			s := NewStarter()
			defer s.Close()
			spec := Spec{Name: "bench", Argv: []string{"/bin/true"}, Bare: bench.bare}
			var prepare, start time.Duration
			for b.Loop() {
				from := time.Now()
				p, err := s.Prepare(b.Context(), spec, Stdio{}, nil)
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
