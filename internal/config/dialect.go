package config

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// Some programs take the numbers of their descriptors from arguments or variables, not from
// LISTEN_FDS. Three forms in exec and environment stand for them:
//
//	{fd:NAME}    the number of the first socket called NAME; {fd:NAME:1} of the second
//	{fds}        all numbers, with blanks between them; {fds:;} with semicolons
//	{fdcount}    how many there are
//
// Whatever else stands in braces is text, {fd: 3} too, and {{fds} is the text {fds}.

// firstFD is SD_LISTEN_FDS_START, sd_listen_fds(3).
const firstFD = 3

// connectionName is what the only descriptor of an instance is called with
// accept, as in sd_listen_fds(3).
const connectionName = "connection"

// passed are the descriptors a program is started with, as far as they are known
// before the sockets are read.
type passed struct {
	names   []string // of the descriptors from firstFD on
	unknown bool     // the sockets have an error, which is reported elsewhere
	why     string   // none is passed by number; "": they are
}

// readPassed finds the descriptors that the program of a file will be passed.
func (r *reading) readPassed(tables map[string][]*table) (p passed) {
	for _, t := range tables["service"] {
		if e := t.findEntry("handover"); e != nil && e.value.text != "fds" {
			p.why = "handover is " + strconv.Quote(e.value.text)
		}
		if e := t.findEntry("accept"); e != nil && e.value.text == "true" {
			p.names = []string{connectionName}
		}
	}
	if p.names != nil {
		return p
	}
	for _, t := range tables["socket"] {
		name := r.name
		if e := t.findEntry("name"); e != nil {
			silent := &reading{name: r.name, env: r.env, text: r.text}
			got, ok := fdName.read(silent, e.value)
			name, p.unknown = got, p.unknown || !ok
		}
		e := t.findEntry("listen")
		if e == nil || e.value.kind != unstable.Array || len(e.value.items) == 0 {
			p.unknown = true
			continue
		}
		for range e.value.items {
			p.names = append(p.names, name)
		}
	}
	p.unknown = p.unknown || len(p.names) == 0
	return p
}

// parseForm reads the form at the beginning of text, behind its opening brace: the name before a
// colon, the rest behind it, and the length with the closing brace. 0: it is no form. No name begins
// with a blank: {fd: 3} is another language's.
func parseForm(text string) (word, rest string, length int) {
	inside, _, closed := strings.Cut(text, "}")
	word, rest, colon := strings.Cut(inside, ":")
	switch {
	case !closed, word == "fd" && strings.HasPrefix(rest, " "):
	case word == "fd" && colon, word == "fds", word == "fdcount" && !colon:
		return word, rest, len(inside) + 1
	}
	return "", "", 0
}

// expandBraces reads the opening braces at the beginning of text, and the form behind them if
// there is one. It returns what they stand for and their length.
func (r *reading) expandBraces(text string) (string, int, error) {
	run := len(text) - len(strings.TrimLeft(text, "{"))
	word, rest, length := parseForm(text[run:])
	switch {
	case length == 0:
		return text[:run], run, nil
	case run > 1: // one of them says that the form is meant as text
		return text[:run-1], run, nil
	}
	value, err := r.expandForm(word, rest)
	return value, 1 + length, err
}

// expandForm returns the value of a form.
func (r *reading) expandForm(word, rest string) (string, error) {
	p := r.passed
	rest, err := r.expandFrom(len("{:")+len(word), rest)
	switch {
	case err != nil:
		return "", err
	case p.why != "":
		return "", wrong("as text it is written {{"+word+"...}", "no descriptor has a number here: %s", p.why)
	case p.unknown:
		return "", nil
	}
	r.numbered = true
	switch word {
	case "fdcount":
		return strconv.Itoa(len(p.names)), nil
	case "fd":
		return p.findNumber(rest)
	}
	if rest == "" {
		rest = " "
	}
	var numbers []string
	for i := range p.names {
		numbers = append(numbers, strconv.Itoa(firstFD+i))
	}
	return strings.Join(numbers, rest), nil
}

// findNumber returns the number of the descriptor called NAME or NAME:INDEX.
func (p passed) findNumber(called string) (string, error) {
	name, index, indexed := strings.Cut(called, ":")
	skip, err := strconv.ParseUint(index, 10, 16)
	if indexed && err != nil {
		return "", wrong("the second socket called "+name+" is {fd:"+name+":1}", "%q is no index", index)
	}
	same := 0
	for i, n := range p.names {
		if n != name {
			continue
		}
		if uint64(same) == skip {
			return strconv.Itoa(firstFD + i), nil
		}
		same++
	}
	if same > 0 {
		return "", wrong("they are counted from 0", "%s has %s, so there is no %d", name, countSockets(same), skip)
	}
	cure := suggestWord(name, p.names)
	if name == "" || cure == "" {
		cure = fmt.Sprintf("the first socket is {fd:%s}", p.names[0])
	}
	return "", wrong(cure+"; as text it is written {{fd:...}", "no socket is called %q", name)
}

func countSockets(n int) string {
	if n == 1 {
		return "one socket"
	}
	return strconv.Itoa(n) + " sockets"
}

// expandProgram is expandText that also replaces the forms.
func (r *reading) expandProgram(text string) (string, error) { return r.expandForms(text, true) }

// unexpandProgram is the inverse of expandProgram.
func unexpandProgram(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '{' {
			b.WriteByte(s[i])
			continue
		}
		run := len(s[i:]) - len(strings.TrimLeft(s[i:], "{"))
		if _, _, length := parseForm(s[i+run:]); length > 0 {
			b.WriteByte('{')
		}
		b.WriteString(s[i : i+run])
		i += run - 1
	}
	return escapeText(b.String())
}

// argument is any text that a program gets, with forms for its descriptors.
var argument = stringOf("a string", (*reading).expandProgram, func(s string) string { return quoteString(unexpandProgram(s)) })
