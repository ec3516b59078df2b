package main

import (
	"strings"
	"testing"
)

// TestReport reads the events of a run in which everything happens once.
func TestReport(t *testing.T) {
	const events = `{"Action":"start","Package":"a"}
{"Action":"run","Package":"a","Test":"TestGood"}
{"Action":"output","Package":"a","Test":"TestGood","Output":"=== RUN   TestGood\n"}
{"Action":"output","Package":"a","Test":"TestGood","Output":"    a_test.go:1: chatter\n"}
{"Action":"pass","Package":"a","Test":"TestGood"}
{"Action":"run","Package":"a","Test":"TestMany"}
{"Action":"run","Package":"a","Test":"TestMany/one"}
{"Action":"output","Package":"a","Test":"TestMany/one","Output":"    a_test.go:2: no nginx: install it\n"}
{"Action":"output","Package":"a","Test":"TestMany/one","Output":"    --- SKIP: TestMany/one (0.00s)\n"}
{"Action":"skip","Package":"a","Test":"TestMany/one"}
{"Action":"run","Package":"a","Test":"TestMany/two"}
{"Action":"output","Package":"a","Test":"TestMany/two","Output":"    a_test.go:3: wrong\n"}
{"Action":"fail","Package":"a","Test":"TestMany/two"}
{"Action":"fail","Package":"a","Test":"TestMany"}
{"Action":"output","Package":"a","Output":"FAIL\n"}
{"Action":"output","Package":"a","Output":"FAIL\ta\t0.1s\n"}
{"Action":"fail","Package":"a"}
{"Action":"output","Package":"b","Output":"ok  \tb\t0.2s\n"}
{"Action":"pass","Package":"b"}
{"Action":"run","Package":"c","Test":"TestHangs"}
{"Action":"output","Package":"c","Test":"TestHangs","Output":"panic: test timed out\n"}
{"Action":"fail","Package":"c"}
{"Action":"output","Package":"e","Output":"left behind: a process\n"}
{"Action":"fail","Package":"e"}
{"Action":"build-output","ImportPath":"d","Output":"d.go:1: undefined\n"}
{"Action":"build-fail","ImportPath":"d"}
not an event
`
	var out strings.Builder
	r := newReport(&out)
	if err := r.read(strings.NewReader(events)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"a_test.go:3: wrong\n", "FAIL\ta\t0.1s\n", "ok  \tb\t0.2s\n", "panic: test timed out\n", "d.go:1: undefined\n", "not an event\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "chatter") || !r.failed {
		t.Errorf("failed: %v, printed:\n%s", r.failed, out.String())
	}
	const want = "tests as me: 3 ran, 2 of them failed; 1 were skipped\n  failed: a TestMany/two\n  failed: c TestHangs\n  failed: e\n  1 skipped: no nginx: install it (TestMany/one)\n"
	if got := r.count("as me"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestReportOfNothing: silence is no success.
func TestReportOfNothing(t *testing.T) {
	r := newReport(new(strings.Builder))
	if err := r.read(strings.NewReader("")); err != nil || len(r.ended) != 0 {
		t.Errorf("%v, %v", err, r.ended)
	}
}
