package output

import (
	"log/slog"
	"strings"
	"testing"
	"time"
)

// The last line that says something, and the last lines, whatever a program prints and wherever it goes.
func TestLastLine(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for _, test := range []struct{ printed, last, lines string }{
		{"", "", ""},
		{"\n\n", "", ""},
		{"one\ntwo\n\n", "two", "one|two"},
		{"one\r\nno end", "no end", "one|no end"},
		{"ready\npanic: no /sys\n\ngoroutine 1 [running]:\nmain.main()\n\t/src/main.go:7 +0x1\n", "panic: no /sys", "ready|panic: no /sys|goroutine 1 [running]:|main.main()|\t/src/main.go:7 +0x1"},
		{"Exception in thread \"main\" java.net.BindException\n\tat a.b(C.java)\n", "Exception in thread \"main\" java.net.BindException", "Exception in thread \"main\" java.net.BindException|\tat a.b(C.java)"},
		{"Traceback:\n  File x\nOSError: no\n", "OSError: no", "Traceback:|  File x|OSError: no"},
		{"  all\n  indented\n", "all", "all|  indented"},
		{"first\n" + long, long[:300], long[:2048]},
	} {
		for _, where := range []string{"log", "file"} {
			sink, reader := open(t, "text", slog.LevelInfo)
			reader.start()
			r, w, err := OpenPipe()
			if err != nil {
				t.Fatal(err)
			}
			var p *Pump
			if where == "log" {
				p = sink.StartPump(r, "web", "stderr", 1)
			} else {
				target, err := sink.OpenTarget(t.TempDir()+"/errors", "web")
				if err != nil {
					t.Fatal(err)
				}
				p = CopyBytes(r, target)
			}
			if _, err := w.WriteString(test.printed); err != nil {
				t.Fatal(err)
			}
			w.Close()
			p.Finish(time.Minute)
			if got := p.LastLine(); got != test.last {
				t.Errorf("%s: %q: %q, not %q", where, test.printed, got, test.last)
			}
			lines := strings.Join(p.LastLines(), "|")
			if lines != test.lines && !strings.HasPrefix(test.printed, "first") {
				t.Errorf("%s: %q: %q, not %q", where, test.printed, lines, test.lines)
			}
			if len(lines) > 2100 {
				t.Errorf("%s: %d bytes are kept", where, len(lines))
			}
		}
	}
}
