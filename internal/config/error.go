package config

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Error is one thing wrong with the configuration.
type Error struct {
	File   string // as the user named it; "": the host as a whole
	Line   int    // from 1; 0: the file as a whole
	Column int    // from 1, in characters; a tab is one
	Key    string // "service.exec"; "": none
	Text   string // what is wrong
	Cure   string // what to write instead; may be empty
	Source string // the line; empty when Line is 0
	Host   bool   // nothing in the file is wrong: only the host can be changed
}

// Errors are all that is wrong, by file and position; what has no line comes last in its file.
type Errors []*Error

// Error returns lines, each with its end: they are printed as they are.
func (e Errors) Error() string {
	var b strings.Builder
	for _, one := range e {
		b.WriteString(one.Error())
		b.WriteByte('\n')
	}
	return b.String()
}

// Unwrap lets errors.As find an *Error.
func (e Errors) Unwrap() []error {
	all := make([]error, len(e))
	for i, one := range e {
		all[i] = one
	}
	return all
}

// OrNil returns e as an error, in the order of files and lines, each once; nil if there is none.
func (e Errors) OrNil() error {
	if len(e) == 0 {
		return nil
	}
	line := func(one *Error) uint { return uint(one.Line) - 1 } // of none the largest
	sorted := slices.Clone(e)
	slices.SortStableFunc(sorted, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(line(a), line(b)), cmp.Compare(a.Column, b.Column))
	})
	return slices.CompactFunc(sorted, func(a, b *Error) bool { return *a == *b })
}

func (e *Error) formatPlace() string {
	switch {
	case e.File == "":
		return "this host"
	case e.Line == 0:
		return e.File
	}
	return fmt.Sprintf("%s:%d:%d", e.File, e.Line, e.Column)
}

// Error returns the place and the reason, then the line with a caret below the column, then the
// cure.
func (e *Error) Error() string {
	text := e.formatPlace() + ": "
	if e.Key != "" {
		text += e.Key + ": "
	}
	text = escapeControls(text + e.Text)
	if e.Line != 0 {
		source, caret := e.excerptLine()
		text += "\n    " + source + "\n    " + caret
	}
	if e.Cure != "" {
		text += "\n    " + escapeControls(e.Cure)
	}
	return text
}

// escapeControls writes what a terminal would execute as TOML writes it.
func escapeControls(s string) string {
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(escapeRune(r))
		}
	}
	return b.String()
}

// excerptWidth is in characters; of longer lines only what is near the column
// is shown.
const excerptWidth = 100

// excerptLine returns the line as it can be shown, and the line below it. Tabs stay
// tabs in both, so the caret stands right whatever their width.
func (e *Error) excerptLine() (source, caret string) {
	line := []rune(e.Source)
	at := min(e.Column-1, len(line))
	start, end := 0, len(line)
	if len(line) > excerptWidth {
		start = max(0, min(at-excerptWidth/2, len(line)-excerptWidth))
		end = start + excerptWidth
	}
	var above, below strings.Builder
	if start > 0 {
		above.WriteString("...")
		below.WriteString("   ")
	}
	for i, r := range line[start:end] {
		blank := ' '
		switch {
		case r == '\t':
			blank = r
		case !unicode.IsPrint(r):
			r = utf8.RuneError // a terminal would execute it
		}
		above.WriteRune(r)
		if start+i < at {
			below.WriteRune(blank)
		}
	}
	if end < len(line) {
		above.WriteString("...")
	}
	return above.String(), below.String() + "^"
}

// locateOffset returns the line and column of the byte at offset, and that line.
func locateOffset(text []byte, offset int) (line, column int, source string) {
	offset = min(offset, len(text))
	start := bytes.LastIndexByte(text[:offset], '\n') + 1
	rest, _, _ := bytes.Cut(text[start:], []byte("\n"))
	return 1 + bytes.Count(text[:start], []byte("\n")),
		1 + utf8.RuneCount(text[start:offset]),
		strings.ToValidUTF8(strings.TrimSuffix(string(rest), "\r"), string(utf8.RuneError))
}
