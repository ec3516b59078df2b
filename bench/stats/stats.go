// Package stats says in a few numbers what many measured values were.
package stats

import (
	"math"
	"slices"
)

// Summary is what the document shows of the values of a case.
type Summary struct {
	N                               int
	Min, P10, Median, P90, P99, Max float64
}

// Of summarizes values, in any order. Of none it returns the zero Summary.
func Of(values []float64) Summary {
	if len(values) == 0 {
		return Summary{}
	}
	sorted := slices.Sorted(slices.Values(values))
	return Summary{
		N:      len(sorted),
		Min:    sorted[0],
		P10:    Quantile(sorted, 0.1),
		Median: Quantile(sorted, 0.5),
		P90:    Quantile(sorted, 0.9),
		P99:    Quantile(sorted, 0.99),
		Max:    sorted[len(sorted)-1],
	}
}

// Quantile returns the q-th quantile of sorted values, interpolated between the
// two neighbours as numpy and R (type 7) do. Of no values it is NaN.
func Quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	at := q * float64(len(sorted)-1)
	low := int(at)
	if low+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}

// Median returns the median of values, in any order; of none it is NaN.
func Median(values []float64) float64 { return Quantile(slices.Sorted(slices.Values(values)), 0.5) }

// Interval is where something lies with 95 % certainty.
type Interval struct{ Low, High float64 }

// MedianInterval returns where the median of what values are a sample of lies, with 95 %
// certainty whatever their distribution: by their order alone, as the number of
// values below it is that of heads of so many coins. Of less than six values, which
// cannot be as certain, it is from the least to the greatest; of none it is NaN.
func MedianInterval(values []float64) Interval {
	n := len(values)
	if n == 0 {
		return Interval{math.NaN(), math.NaN()}
	}
	sorted := slices.Sorted(slices.Values(values))
	cut := 0 // values cut off at either end
	for tail, one := 0.0, math.Pow(0.5, float64(n)); cut < n/2; cut++ {
		tail += one // at most cut heads
		if tail > 0.025 {
			break
		}
		one *= float64(n-cut) / float64(cut+1)
	}
	cut = max(0, cut-1)
	return Interval{sorted[cut], sorted[n-1-cut]}
}

// Ratios divides values pair by pair; nil where they are not as many.
func Ratios(of, to []float64) []float64 {
	if len(of) != len(to) {
		return nil
	}
	var ratios []float64
	for i := range of {
		if to[i] == 0 {
			return nil
		}
		ratios = append(ratios, of[i]/to[i])
	}
	return ratios
}
