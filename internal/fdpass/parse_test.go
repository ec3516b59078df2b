package fdpass

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	tests := []struct {
		name, fds, pid, names, pidfd string // "-": not set
		want                         claim
		bad                          string // the variable an *Error must name
	}{
		{"plain", "1", "42", "-", "-", claim{count: 1}, ""},
		{"five", "5", "42", "a:b:c:d:e", "-", claim{count: 5, names: []string{"a", "b", "c", "d", "e"}}, ""},
		{"empty name", "1", "42", "", "-", claim{count: 1, names: []string{""}}, ""},
		{"empty names", "3", "42", "::", "-", claim{count: 3, names: []string{"", "", ""}}, ""},
		{"pidfd", "1", "42", "x", "18446744073709551615", claim{count: 1, names: []string{"x"}, pidfdID: 1<<64 - 1}, ""},
		{"leading zero", "01", "042", "-", "-", claim{count: 1}, ""},
		{"no pid", "1", "-", "-", "-", claim{}, listenFDs},
		{"pid of another", "1", "43", "-", "-", claim{}, listenPID},
		{"pid empty", "1", "", "-", "-", claim{}, listenPID},
		{"pid zero", "1", "0", "-", "-", claim{}, listenPID},
		{"pid text", "1", "self", "-", "-", claim{}, listenPID},
		{"pid negative", "1", "-42", "-", "-", claim{}, listenPID},
		{"pid blank", "1", " 42", "-", "-", claim{}, listenPID},
		{"pid huge", "1", "99999999999999999999", "-", "-", claim{}, listenPID},
		{"fds empty", "", "42", "-", "-", claim{}, listenFDs},
		{"fds zero", "0", "42", "-", "-", claim{}, listenFDs},
		{"fds negative", "-1", "42", "-", "-", claim{}, listenFDs},
		{"fds signed", "+1", "42", "-", "-", claim{}, listenFDs},
		{"fds text", "many", "42", "-", "-", claim{}, listenFDs},
		{"fds hexadecimal", "0x3", "42", "-", "-", claim{}, listenFDs},
		{"fds fraction", "1.5", "42", "-", "-", claim{}, listenFDs},
		{"fds absurd", "2147483645", "42", "-", "-", claim{}, listenFDs},
		{"fds beyond 64 bits", "99999999999999999999", "42", "-", "-", claim{}, listenFDs},
		{"names too few", "3", "42", "a:b", "-", claim{}, listenNames},
		{"names too many", "1", "42", "a:b", "-", claim{}, listenNames},
		{"names malformed", "2", "42", "a:b\n", "-", claim{}, listenNames},
		{"pidfd text", "1", "42", "-", "x", claim{}, listenPidfd},
		{"pidfd zero", "1", "42", "-", "0", claim{}, listenPidfd},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			env := map[string]string{}
			for name, value := range map[string]string{listenFDs: tt.fds, listenPID: tt.pid, listenNames: tt.names, listenPidfd: tt.pidfd} {
				if value != "-" {
					env[name] = value
				}
			}
			got, err := parseEnviron(env, 42)
			if tt.bad == "" {
				if err != nil || got.count != tt.want.count || !slices.Equal(got.names, tt.want.names) || got.pidfdID != tt.want.pidfdID {
					t.Fatalf("got %+v, %v", got, err)
				}
				return
			}
			var bad *Error
			if !errors.As(err, &bad) || bad.Variable != tt.bad || bad.Value != env[tt.bad] {
				t.Fatalf("got %+v, %v", got, err)
			}
			t.Log(err)
		})
	}
}

func TestParseNotActivated(t *testing.T) {
	for _, env := range []map[string]string{nil, {listenPID: "42"}, {listenNames: "a", listenPID: "42"}} {
		if _, err := parseEnviron(env, 42); !errors.Is(err, ErrNotActivated) {
			t.Errorf("%v: %v", env, err)
		}
	}
}

func TestErrorIsFitForALog(t *testing.T) {
	err := &Error{listenPID, "\x1b[2J" + strings.Repeat("9", 1000), "is not a process id"}
	if text := err.Error(); strings.ContainsRune(text, '\x1b') || len(text) > 200 {
		t.Errorf("%q", text)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("5", "42", "a:b:c:d:e", "7")
	f.Add("-1", "42", "", "x")
	f.Fuzz(func(t *testing.T, fds, pid, names, pidfd string) {
		c, err := parseEnviron(map[string]string{listenFDs: fds, listenPID: pid, listenNames: names, listenPidfd: pidfd}, 42)
		var bad *Error
		if err != nil && !errors.As(err, &bad) {
			t.Fatalf("untyped error %v", err)
		}
		if err != nil {
			return
		}
		if c.count < 1 || c.count > maxFDs || len(c.names) != c.count || c.pidfdID == 0 {
			t.Fatalf("%+v", c)
		}
		for i := range c.count {
			if checkName(c.nameOf(i)) != nil {
				t.Fatalf("name %q", c.nameOf(i))
			}
		}
	})
}
