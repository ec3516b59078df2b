package config

import (
	"strings"
	"testing"
)

// What stands in several lines is the same whatever the file's line ends are, and so is the place of a
// mistake in it. Escapes stay what they are.
func TestLineEnds(t *testing.T) {
	for name, test := range map[string]struct{ written, want string }{
		"literal":        {"'''\nif true; then\n  echo hello\nfi\n'''", "if true; then\n  echo hello\nfi\n"},
		"basic":          {"\"\"\"\na\\tb\n\nc\"\"\"", "a\tb\n\nc"},
		"no first line":  {"'''a\nb'''", "a\nb"},
		"escaped":        {"\"\"\"a\\r\\n\nb\"\"\"", "a\r\n\nb"},
		"joined lines":   {"\"\"\"a\\\n   b\"\"\"", "ab"},
		"one line":       {"'a'", "a"},
		"quotes in them": {"'''\n''a''\n'''", "''a''\n"},
	} {
		for end, replace := range map[string]string{"LF": "\n", "CRLF": "\r\n"} {
			text := strings.ReplaceAll("[[socket]]\nlisten = [\"tcp://:80\"]\n[service]\nexec = [\"/bin/x\", "+test.written+"]\n", "\n", replace)
			s, err := parseText("x.toml", []byte(text), somewhere)
			if err != nil || s.Argv[1] != test.want {
				t.Errorf("%s, %s: %v, %q, want %q", name, end, err, s.Argv, test.want)
			}
		}
	}
}

func TestPlaceInLines(t *testing.T) {
	for name, test := range map[string]struct {
		written      string
		line, column int
	}{
		"literal":       {"'''\nabc\n  {fd:no}\n'''", 6, 3},
		"basic":         {"\"\"\"\nabc\n  {fd:no}\n\"\"\"", 6, 3},
		"no first line": {"'''abc\n{fd:no}'''", 5, 1},
		"one line":      {"'ab{fd:no}'", 4, 25},
		"escapes":       {"\"\"\"\na\\tb\n{fd:no}\"\"\"", 4, 22}, // the string's
	} {
		for end, replace := range map[string]string{"LF": "\n", "CRLF": "\r\n"} {
			text := strings.ReplaceAll("[[socket]]\nlisten = [\"tcp://:80\"]\n[service]\nexec = [\"/bin/echo\", "+test.written+"]\n", "\n", replace)
			_, err := parseText("x.toml", []byte(text), somewhere)
			all, _ := err.(Errors)
			if len(all) != 1 || all[0].Line != test.line || all[0].Column != test.column {
				t.Errorf("%s, %s: want %d:%d, got\n%v", name, end, test.line, test.column, err)
			}
		}
	}
}
