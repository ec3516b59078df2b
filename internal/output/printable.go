package output

import (
	"fmt"
	"io"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// printable passes formatted lines on, and writes as \uXXXX what a terminal obeys or
// what changes the direction of text: the control characters from U+007F on and the
// invisible ones, U+009B and U+202E among them. package slog quotes a text that has
// some, and leaves them in JSON as they are.
type printable struct{ to io.Writer }

func (w printable) Write(line []byte) (int, error) {
	if _, err := w.to.Write(escape(line)); err != nil {
		return 0, err
	}
	return len(line), nil
}

// escape returns line itself where nothing has to be escaped.
func escape(line []byte) []byte {
	var out []byte
	kept := 0
	for i := 0; i < len(line); {
		r, size := rune(line[i]), 1
		if r >= utf8.RuneSelf {
			r, size = utf8.DecodeRune(line[i:])
		}
		if r >= 0x7f && !unicode.IsPrint(r) && r != utf8.RuneError {
			out = append(out, line[kept:i]...)
			for _, unit := range utf16.Encode([]rune{r}) {
				out = fmt.Appendf(out, `\u%04x`, unit)
			}
			kept = i + size
		}
		i += size
	}
	if kept == 0 {
		return line
	}
	return append(out, line[kept:]...)
}
