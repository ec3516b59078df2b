package config

import (
	"slices"
	"strings"
	"testing"
)

// Three sockets, two of them with one name: 3, 4 and 5.
const threeSockets = `
[[socket]]
name = "web"
listen = ["tcp://127.0.0.1:80", "unix:///run/web"]
[[socket]]
listen = ["tcp://127.0.0.1:81"]
[service]
`

func TestForms(t *testing.T) {
	for written, want := range map[string]string{
		"{fd:web}":                       "3",
		"{fd:web:0}":                     "3",
		"{fd:web:1}":                     "4",
		"{fd:%n}":                        "5", // the name of a socket without one is the service's
		"{fds}":                          "3 4 5",
		"{fds:;};":                       "3;4;5;",
		"{fds:, }":                       "3, 4, 5",
		"{fds:%%}":                       "3%4%5",
		"{fdcount}":                      "3",
		"a{fd:web}b{fdcount}c":           "a3b3c",
		"127.0.0.1:80={fd:web},/x={fds}": "127.0.0.1:80=3,/x=3 4 5",
		// Everything else in braces is text.
		"{}":             "{}",
		"{":              "{",
		"{fd:web":        "{fd:web",
		"{fd}":           "{fd}",
		"{fdcount:1}":    "{fdcount:1}",
		"{FDS}":          "{FDS}",
		"{ fds }":        "{ fds }",
		"{{}}":           "{{}}",
		"{{ fds }}":      "{{ fds }}",
		"{{fds}":         "{fds}",
		"f({fd: 3})":     "f({fd: 3})",
		"{{fd: web}":     "{{fd: web}",
		"{{{fds}":        "{{fds}",
		"{{fd:no}":       "{fd:no}",
		"{{fd:%n}":       "{fd:x}",
		"{{fdcount}}":    "{fdcount}}",
		"{ {fdcount} }":  "{ 3 }",
		`{\"a\":{fd:x}}`: `{"a":5}`,
	} {
		text := threeSockets + "exec = [\"/bin/x\", \"" + written + "\"]\nenvironment = { A = \"" + written + "\" }\n"
		s, err := parseText("x.toml", []byte(text), somewhere)
		if err != nil {
			t.Errorf("%s: %v", written, err)
			continue
		}
		if s.Argv[1] != want || !slices.Equal(s.Env, []string{"A=" + want}) {
			t.Errorf("%s: is %q and %q, want %q", written, s.Argv[1], s.Env, want)
		}
		readsBack(t, text)
	}
}

func TestWrongForms(t *testing.T) {
	for _, tt := range []struct {
		service string
		column  int // on the last line
		says    string
		cure    string
	}{
		{`exec = ["/bin/x", "-f{fd:wbe}"]`, 22, `no socket is called "wbe"`, `did you mean "web"?; as text it is written {{fd:...}`},
		{`exec = ["/bin/x", "-f{fd:nothing}"]`, 22, `no socket is called "nothing"`, "the first socket is {fd:web}"},
		{`exec = ["/bin/x", "é {fd:}"]`, 22, `no socket is called ""`, "the first socket is {fd:web}"},
		{`exec = ["/bin/x", "-f{fd:web:2}"]`, 22, "web has 2 sockets, so there is no 2", "counted from 0"},
		{`exec = ["/bin/x", "-f{fd:%n:1}"]`, 22, "x has one socket, so there is no 1", "counted from 0"},
		{`exec = ["/bin/x", "-f{fd:web:b}"]`, 22, `"b" is no index`, "{fd:web:1}"},
		{`exec = ["/bin/x", "-f{fd:web:-1}"]`, 22, `"-1" is no index`, "{fd:web:1}"},
		{`exec = ["/bin/x", "-f{fd:a%q}"]`, 27, "unknown specifier", ""},
		{`environment = ["A=1", "B={fd:wbe}"]`, 26, `no socket is called "wbe"`, `did you mean "web"?`},
		{`environment = { B = "x{fd:wbe}" }`, 23, `no socket is called "wbe"`, `did you mean "web"?`},
	} {
		text := strings.TrimSpace(threeSockets+"umask = \"0022\"\n") + "\n" + tt.service
		if !strings.Contains(tt.service, "exec") {
			text = strings.Replace(text, "umask =", "exec = [\"/bin/x\"]\numask =", 1)
		}
		_, err := parseText("x.toml", []byte(text), somewhere)
		all, _ := err.(Errors)
		if len(all) != 1 || all[0].Column != tt.column || !strings.Contains(all[0].Text, tt.says) || !strings.Contains(all[0].Cure, tt.cure) {
			t.Errorf("%s: want %q at column %d, %q, got\n%v", tt.service, tt.says, tt.column, tt.cure, err)
		}
	}
}

// Where the sockets are not understood that is said, and nothing about their names.
func TestFormsOfBrokenSockets(t *testing.T) {
	for _, socket := range []string{"", "[[socket]]\n", "[[socket]]\nlisten = 3\n", "[[socket]]\nname = \"a:b\"\nlisten = [\"tcp://:80\"]\n", "socket = 3\n"} {
		_, err := parseText("x.toml", []byte(socket+"[service]\nexec = [\"/bin/x\", \"{fd:web} {fds} {fdcount}\"]"), somewhere)
		if err == nil || strings.Contains(err.Error(), "called") {
			t.Errorf("%q: %v", socket, err)
		}
	}
}

func FuzzForms(f *testing.F) {
	for _, s := range []string{"{fd:web}", "{{fds:%%}}", "{fdcount}{", "{{{fd:%n:0}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r := &reading{env: somewhere, name: "web", passed: passed{names: []string{"web", "web", "a"}}}
		_, _ = r.expandProgram(text)
		back, err := r.expandProgram(unexpandProgram(text))
		if !strings.Contains(text, "\x00") && (err != nil || back != text) {
			t.Errorf("%q came back as %q, %v", text, back, err)
		}
	})
}
