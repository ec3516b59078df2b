package stats

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestOf(t *testing.T) {
	thousand := make([]float64, 1001)
	for i := range thousand {
		thousand[i] = float64(i)
	}
	rand.Shuffle(len(thousand), func(i, j int) { thousand[i], thousand[j] = thousand[j], thousand[i] })
	for _, test := range []struct {
		name   string
		values []float64
		want   Summary
	}{
		{"none", nil, Summary{}},
		{"one", []float64{7}, Summary{1, 7, 7, 7, 7, 7, 7}},
		{"two", []float64{3, 1}, Summary{2, 1, 1.2, 2, 2.8, 2.98, 3}},
		{"odd, in disorder", []float64{9, 1, 5}, Summary{3, 1, 1.8, 5, 8.2, 8.92, 9}},
		{"many", thousand, Summary{1001, 0, 100, 500, 900, 990, 1000}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := Of(test.values)
			if !near(got, test.want) {
				t.Errorf("Of: %+v, want %+v", got, test.want)
			}
		})
	}
}

func near(a, b Summary) bool {
	const most = 1e-9
	for _, d := range []float64{a.Min - b.Min, a.P10 - b.P10, a.Median - b.Median, a.P90 - b.P90, a.P99 - b.P99, a.Max - b.Max} {
		if math.Abs(d) > most {
			return false
		}
	}
	return a.N == b.N
}

func TestOfLeavesTheOrder(t *testing.T) {
	values := []float64{3, 1, 2}
	Of(values)
	Median(values)
	if values[0] != 3 || values[1] != 1 || values[2] != 2 {
		t.Errorf("the values are %v now", values)
	}
}

func TestQuantileOfNothing(t *testing.T) {
	if q := Quantile(nil, 0.5); !math.IsNaN(q) {
		t.Errorf("Quantile: %v", q)
	}
}

// The ranks are those of the tables of textbooks.
func TestMedianInterval(t *testing.T) {
	for n, want := range map[int]Interval{1: {1, 1}, 5: {1, 5}, 6: {1, 6}, 9: {2, 8}, 12: {3, 10}, 15: {4, 12}, 20: {6, 15}, 25: {8, 18}} {
		values := make([]float64, n)
		for i := range values {
			values[i] = float64(n - i)
		}
		if got := MedianInterval(values); got != want {
			t.Errorf("of 1 to %d: %v, want %v", n, got, want)
		}
	}
	if got := MedianInterval(nil); !math.IsNaN(got.Low) || !math.IsNaN(got.High) {
		t.Errorf("of nothing: %v", got)
	}
}

func TestRatios(t *testing.T) {
	if got := Ratios([]float64{2, 9}, []float64{4, 3}); len(got) != 2 || got[0] != 0.5 || got[1] != 3 {
		t.Errorf("%v", got)
	}
	for _, to := range [][]float64{nil, {1}, {1, 0}} {
		if got := Ratios([]float64{2, 9}, to); got != nil {
			t.Errorf("to %v: %v", to, got)
		}
	}
}
