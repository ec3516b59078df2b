package output

import (
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

// No character that a terminal obeys, or that turns the direction of text, stands in
// the log as it is, be it of a service or of a client's name; nothing is lost in JSON.
func TestNothingUnprintable(t *testing.T) {
	var odd strings.Builder
	for _, some := range [][2]rune{{0, 0x20}, {0x7f, 0xa0}, {0x200b, 0x200f}, {0x2028, 0x202e}, {0x2060, 0x206f}, {0xfeff, 0xfeff}, {0xe0001, 0xe007f}, {0x61c, 0x61c}} {
		for r := some[0]; r <= some[1]; r++ {
			if r != '\n' {
				odd.WriteRune(r)
			}
		}
	}
	text := "plain é 日 \U0001f600 " + odd.String()
	for _, format := range []string{"text", "json"} {
		s, r := open(t, format, slog.LevelInfo)
		r.start()
		s.Logger().Info(text, "remote", text)
		pump, child := feed(t, s, "echo", "stdout", 7)
		if _, err := child.WriteString(text + "\n"); err != nil {
			t.Fatal(err)
		}
		child.Close()
		pump.Finish(time.Minute)
		lines := r.lines(t, s)
		if len(lines) != 2 {
			t.Fatalf("%s: %d lines: %q", format, len(lines), lines)
		}
		for _, line := range lines {
			if bad := strings.IndexFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }); bad >= 0 || !utf8.ValidString(line) {
				t.Errorf("%s: at %d: %q", format, bad, line)
			}
			if !strings.Contains(line, "plain é 日 \U0001f600 ") {
				t.Errorf("%s: what can be read is not: %q", format, line)
			}
			var record struct{ Msg, Remote string }
			if format == "text" {
				continue
			}
			if err := json.Unmarshal([]byte(line), &record); err != nil || record.Msg != text || record.Remote != text && record.Remote != "" {
				t.Errorf("%v: %q", err, record)
			}
		}
	}
}
