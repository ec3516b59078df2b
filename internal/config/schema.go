package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/pelletier/go-toml/v2/unstable"
)

// reading is one file while it is read.
type reading struct {
	file string // as the user named it
	dir  string // absolute; what relative paths are relative to
	name string // the service's
	text []byte
	env  Env
	errs Errors
	more int // errors beyond the first, of which it is not kept what they are

	key   string           // being read: "service.exec"
	given map[string]value // by key, of all tables but [[socket]]

	passed   passed // what the program is told of by {fd:NAME}
	numbered bool   // it is told of a number
}

// mostErrors is how many errors of a file are kept.
const mostErrors = 50

// dropError reports whether there are enough errors already, with some that are not in them yet. Then it counts one
// that is not kept.
func (r *reading) dropError(yet int) bool {
	if len(r.errs)+yet < mostErrors {
		return false
	}
	r.more++
	return true
}

// countErrors returns how many errors there are up to now.
func (r *reading) countErrors() int { return len(r.errs) + r.more }

// listErrors returns the errors that are kept, and one that says how many more there are.
func (r *reading) listErrors() Errors {
	if r.more == 0 {
		return r.errs
	}
	text := fmt.Sprintf("%d more errors", r.more)
	if r.more == 1 {
		text = "1 more error"
	}
	return append(r.errs[:len(r.errs):len(r.errs)], &Error{File: r.file, Text: text, Cure: "mend these first"})
}

// addError adds an error at an offset.
func (r *reading) addError(at int, key, text, cure string) {
	if !r.dropError(0) {
		r.errs = append(r.errs, r.newError(at, key, text, cure))
	}
}

func (r *reading) newError(at int, key, text, cure string) *Error {
	line, column, source := locateOffset(r.text, at)
	return &Error{File: r.file, Line: line, Column: column, Key: key, Text: text, Cure: cure, Source: source}
}

// addFileError adds an error about the file as a whole.
func (r *reading) addFileError(key, text, cure string) {
	if !r.dropError(0) {
		r.errs = append(r.errs, &Error{File: r.file, Key: key, Text: text, Cure: cure})
	}
}

// isMisspelt reports whether one of errs is an unknown key or table for which name is suggested:
// then name is not reported as missing too.
func isMisspelt(errs Errors, name string) bool {
	return slices.ContainsFunc(errs, func(e *Error) bool {
		return strings.HasPrefix(e.Text, "unknown ") && strings.Contains(e.Cure, strconv.Quote(name))
	})
}

// mistake is an error of a value, without its place in the file.
type mistake struct {
	at   int // byte within the string
	text string
	cure string
}

func (m *mistake) Error() string { return m.text }

func wrong(cure, format string, args ...any) error {
	return &mistake{text: fmt.Sprintf(format, args...), cure: cure}
}

// addValueError adds an error of v, the value of the key that is being read.
func (r *reading) addValueError(v value, err error) {
	var m *mistake
	if !errors.As(err, &m) {
		m = &mistake{text: err.Error()}
	}
	at := v.at
	if m.at > 0 {
		at = v.offsetOf(m.at)
	}
	r.addError(at, r.key, m.text, m.cure)
}

// codec is how a kind of value is read and printed.
type codec[T any] struct {
	read  func(r *reading, v value) (T, bool) // reports what is wrong; false: no value
	print func(T) string                      // as TOML
}

// field is one key of a section: how it is read and printed, what holds
// without it, and where it has no meaning.
type field[S any] struct {
	key    string
	read   func(r *reading, s *S, v value)
	reset  func(s *S)          // to the default
	clear  func(s *S)          // to nothing: of a socket for which the key has no meaning
	print  func(s *S) string   // the value, as TOML
	normal func(s *S) bool     // the value is the default
	unset  string              // what holds without the key, where no value says it
	whys   []func(s *S) string // each: why the key has no meaning; "": it has
}

// key makes a field of its name, its kind, where its value is kept, and its
// default.
func key[S, T any](name string, kind codec[T], at func(*S) *T, std T) field[S] {
	printed := kind.print(std)
	return field[S]{
		key: name,
		read: func(r *reading, s *S, v value) {
			if got, ok := kind.read(r, v); ok {
				*at(s) = got
			}
		},
		reset: func(s *S) { *at(s) = std },
		clear: func(s *S) {
			var nothing T
			*at(s) = nothing
		},
		print:  func(s *S) string { return kind.print(*at(s)) },
		normal: func(s *S) bool { return kind.print(*at(s)) == printed },
	}
}

// without says what holds without the key, if its default cannot be written as a value.
func (f field[S]) without(what string) field[S] {
	f.unset = what
	return f
}

// marked keeps in at whether the key was given.
func (f field[S]) marked(at func(*S) *bool) field[S] {
	read, reset, clear := f.read, f.reset, f.clear
	f.read = func(r *reading, s *S, v value) { read(r, s, v); *at(s) = true }
	f.reset = func(s *S) { reset(s); *at(s) = f.unset == "" }
	f.clear = func(s *S) { clear(s); *at(s) = false }
	f.normal = func(s *S) bool { return !*at(s) }
	return f
}

// only adds a condition: why the key has no meaning, "" when it has.
func (f field[S]) only(why func(*S) string) field[S] {
	f.whys = append(f.whys[:len(f.whys):len(f.whys)], why)
	return f
}

// explainIdle says why the key has no meaning in s; "" when it has.
func (f *field[S]) explainIdle(s *S) string {
	for _, why := range f.whys {
		if text := why(s); text != "" {
			return text
		}
	}
	return ""
}

// isAbsent reports whether s has what holds without the key.
func (f *field[S]) isAbsent(s *S) bool { return f.unset != "" && f.normal(s) }

// fillSection reads the entries of t into s, which has its defaults already, and
// returns the values by key.
func fillSection[S any](r *reading, section string, keys []field[S], t *table, s *S) map[string]value {
	given := make(map[string]value, len(t.entries))
	for _, e := range t.entries {
		r.key = section + "." + quoteKey(e.name)
		i := slices.IndexFunc(keys, func(f field[S]) bool { return f.key == e.name })
		if i < 0 {
			if !r.dropError(0) { // a cure takes long to find
				r.addError(e.at, r.key, "unknown key", keyCure(section, e.name))
			}
			continue
		}
		keys[i].read(r, s, e.value)
		given[e.name] = e.value
	}
	return given
}

// checkMeaning reports the given keys that have no meaning in s.
func checkMeaning[S any](r *reading, section string, keys []field[S], t *table, s *S) {
	for i := range keys {
		e := t.findEntry(keys[i].key)
		if e == nil {
			continue
		}
		if why := keys[i].explainIdle(s); why != "" {
			r.addError(e.at, section+"."+e.name, "has no meaning here: "+why, "")
		}
	}
}

// setDefaults gives s the default of each key.
func setDefaults[S any](keys []field[S], s *S) {
	for i := range keys {
		keys[i].reset(s)
	}
}

// section is one table that a file may have.
type section struct {
	name string
	list bool // written [[name]]
	keys []string
}

func keyNames[S any](keys []field[S]) []string {
	all := make([]string, len(keys))
	for i := range keys {
		all[i] = keys[i].key
	}
	return all
}

// sections are all tables, in the order they are printed. They are made when
// they are needed: the reaper and the guard, which are the same program, never need them.
var sections = sync.OnceValue(func() []section {
	return []section{
		{"socket", true, keyNames(socketKeys())},
		{"service", false, keyNames(serviceKeys())},
		{"sandbox", false, keyNames(sandboxKeys())},
		{"container", false, keyNames(containerKeys())},
	}
})

func (s section) formatHeader() string {
	if s.list {
		return "[[" + s.name + "]]"
	}
	return "[" + s.name + "]"
}

// keyCure suggests a known key for an unknown one; of is "" at the top.
func keyCure(of, written string) string {
	written = snakeCase(written)
	if known, ok := unitFile[written]; ok {
		written = known
	}
	var own []string
	for _, s := range sections() {
		if s.name == of || of == "" {
			own = append(own, s.keys...)
		}
	}
	if of != "" && slices.Contains(own, written) {
		return fmt.Sprintf("here it is written %q", written)
	}
	for _, s := range sections() {
		if slices.Contains(s.keys, written) {
			return fmt.Sprintf("%q stands in %s", written, s.formatHeader())
		}
	}
	return cmp.Or(explainAbsent(written), suggestWord(written, own))
}

// readTables returns the tables of a file that have the right form.
func (r *reading) readTables(t *table) map[string][]*table {
	found := make(map[string][]*table)
	for _, e := range t.entries {
		i := slices.IndexFunc(sections(), func(s section) bool { return s.name == e.name })
		if i < 0 {
			r.unknownTable(e)
			continue
		}
		s := sections()[i]
		tables := e.value.listTables()
		isList := e.value.kind == unstable.ArrayTable || e.value.kind == unstable.Array
		switch {
		case tables == nil || s.list && !isList:
			r.addError(e.at, e.name, "is "+e.value.kindName()+", not "+map[bool]string{true: "a list of tables", false: "a table"}[s.list], "write "+s.formatHeader())
		case !s.list && isList:
			r.addError(e.at, e.name, "is a list of tables; a file is one service", "write "+s.formatHeader())
		}
		found[e.name] = tables
	}
	return found
}

// listTables returns a table, or the tables of a list; nil for any other value.
func (v value) listTables() []*table {
	if v.table != nil {
		return []*table{v.table}
	}
	var all []*table
	for _, item := range v.items {
		if item.table == nil {
			return nil
		}
		all = append(all, item.table)
	}
	return all
}

func (r *reading) unknownTable(e *entry) {
	if r.dropError(0) {
		return
	}
	var headers []string
	for _, s := range sections() {
		headers = append(headers, s.name)
	}
	cure := keyCure("", e.name)
	what := "unknown key"
	if e.value.listTables() != nil {
		what = "unknown table"
		cure = cmp.Or(explainAbsent(strings.ToLower(e.name)), suggestWord(strings.ToLower(e.name), headers))
	}
	r.addError(e.at, quoteKey(e.name), what, cmp.Or(cure, "there are [[socket]], [service], [sandbox] and [container]"))
}
