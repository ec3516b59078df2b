package config

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Env is what the configuration asks of its surroundings, so that reading it is
// pure.
type Env struct {
	Dir         string // absolute; what a relative file name is relative to; "": it is gone
	Home        string // %h
	Runtime     string // %t; "": there is none
	User, Group string // %u, %g
	UID, GID    int    // %U, %G
}

// HostEnv returns the surroundings of this process, as systemd.unit(5) defines
// the specifiers for root's manager and for an ordinary user's.
func HostEnv() Env {
	uid, gid := os.Geteuid(), os.Getegid()
	env := Env{UID: uid, GID: gid, User: strconv.Itoa(uid), Group: strconv.Itoa(gid), Home: os.Getenv("HOME")}
	if u, err := user.LookupId(env.User); err == nil {
		env.User = u.Username
		if !filepath.IsAbs(env.Home) {
			env.Home = u.HomeDir
		}
	}
	if g, err := user.LookupGroupId(env.Group); err == nil {
		env.Group = g.Name
	}
	env.Runtime = runtimeDir(uid)
	env.Dir, _ = os.Getwd() // which may have been deleted: an absolute name needs none
	return env
}

func runtimeDir(uid int) string {
	if uid == 0 {
		return "/run"
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return dir
	}
	dir := fmt.Sprintf("/run/user/%d", uid)
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return dir
	}
	return ""
}

// specifiers are what may follow a percent sign.
var specifiers = map[byte]struct {
	what  string
	value func(r *reading) string
}{
	'%': {"a percent sign", func(*reading) string { return "%" }},
	'h': {"the home of who runs the activator: HOME is not set", func(r *reading) string { return r.env.Home }},
	't': {"the runtime folder: XDG_RUNTIME_DIR is not set", func(r *reading) string { return r.env.Runtime }},
	'n': {"the service's name", func(r *reading) string { return r.name }},
	'u': {"the user's name", func(r *reading) string { return r.env.User }},
	'U': {"the user's number", func(r *reading) string { return strconv.Itoa(r.env.UID) }},
	'g': {"the group's name", func(r *reading) string { return r.env.Group }},
	'G': {"the group's number", func(r *reading) string { return strconv.Itoa(r.env.GID) }},
}

// expandText replaces the specifiers in text. Its errors are mistakes.
func (r *reading) expandText(text string) (string, error) { return r.expandForms(text, false) }

// expandForms is expandText that also replaces the forms of dialect.go, if forms is true.
func (r *reading) expandForms(text string, forms bool) (string, error) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch {
		case forms && text[i] == '{':
			s, length, err := r.expandBraces(text[i:])
			if err != nil {
				return "", shiftMistake(err, i)
			}
			b.WriteString(s)
			i += length - 1
			continue
		case text[i] == 0:
			return "", &mistake{at: i, text: "contains a NUL byte"}
		case text[i] != '%':
			b.WriteByte(text[i])
			continue
		case i+1 == len(text):
			return "", &mistake{at: i, text: "ends with a lone percent sign", cure: `a percent sign is written "%%"`}
		}
		i++
		s, known := specifiers[text[i]]
		if !known {
			c, _ := utf8.DecodeRuneInString(text[i:])
			return "", &mistake{at: i - 1, text: fmt.Sprintf("unknown specifier \"%%%c\"", c),
				cure: `there are %h %t %n %u %U %g %G; a percent sign is written "%%"`}
		}
		v := s.value(r)
		if v == "" || !utf8.ValidString(v) {
			return "", &mistake{at: i - 1, text: fmt.Sprintf("\"%%%c\" is unknown here: it is %s", text[i], s.what),
				cure: "set that for the activator, or write what is meant instead"}
		}
		b.WriteString(v)
	}
	return b.String(), nil
}

// expandFrom expands what begins at a byte of a longer string.
func (r *reading) expandFrom(start int, text string) (string, error) {
	s, err := r.expandText(text)
	return s, shiftMistake(err, start)
}

// shiftMistake moves the place of a mistake in a part of a text that begins at start.
func shiftMistake(err error, start int) error {
	var m *mistake
	if errors.As(err, &m) {
		m.at += start
	}
	return err
}

// escapeText is the inverse of expandText.
func escapeText(s string) string { return strings.ReplaceAll(s, "%", "%%") }
