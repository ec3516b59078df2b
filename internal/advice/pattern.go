package advice

import (
	"regexp"
	"sync"
)

// pattern is a regular expression that is compiled when it is first asked: most activators have nothing to advise, and each
// of them, and its guard, begins as this program.
type pattern func() *regexp.Regexp

func newPattern(text string) pattern {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}

func (p pattern) MatchString(s string) bool { return p().MatchString(s) }
