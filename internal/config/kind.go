package config

import (
	"cmp"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/pelletier/go-toml/v2/unstable"
)

// quoteString prints s as a basic string of TOML.
func quoteString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			b.WriteString(escapeRune(r))
		}
	}
	b.WriteByte('"')
	return b.String()
}

// escapeRune writes a character that is not printable, as in a basic string of TOML.
func escapeRune(r rune) string {
	switch {
	case r == '\n':
		return `\n`
	case r == '\t':
		return `\t`
	case r > 0xffff:
		return fmt.Sprintf(`\U%08X`, r)
	}
	return fmt.Sprintf(`\u%04X`, r)
}

// single is a kind of one value, of which parse says what is wrong.
func single[T any](parse func(r *reading, v value) (T, error), print func(T) string) codec[T] {
	return codec[T]{func(r *reading, v value) (T, bool) {
		got, err := parse(r, v)
		if err != nil {
			r.addValueError(v, err)
		}
		return got, err == nil
	}, print}
}

// stringOf is a kind that is written as a string; want says what it should be, as in
// `want a duration such as "30s"`.
func stringOf[T any](want string, parse func(r *reading, s string) (T, error), print func(T) string) codec[T] {
	return single(func(r *reading, v value) (T, error) {
		if v.kind != unstable.String {
			var none T
			return none, wrong("want "+want, "is %s", v.kindName())
		}
		return parse(r, v.text)
	}, print)
}

// plain is a kind that is written as a string without specifiers.
func plain[T any](want string, parse func(s string) (T, error), print func(T) string) codec[T] {
	return stringOf(want, func(_ *reading, s string) (T, error) { return parse(s) }, print)
}

var boolean = single(func(_ *reading, v value) (bool, error) {
	if v.kind != unstable.Bool {
		return false, wrong("want true or false", "is %s", v.kindName())
	}
	return v.text == "true", nil
}, strconv.FormatBool)

// inverted is a boolean that is kept as its opposite.
var inverted = codec[bool]{func(r *reading, v value) (bool, bool) {
	b, ok := boolean.read(r, v)
	return !b, ok
}, func(b bool) string { return strconv.FormatBool(!b) }}

// choice is one of a few words.
func choice[T ~string](words ...T) codec[T] {
	list := make([]string, len(words))
	for i, w := range words {
		list[i] = strconv.Quote(string(w))
	}
	return plain("one of "+strings.Join(list, ", "), func(s string) (T, error) {
		if slices.Contains(words, T(s)) {
			return T(s), nil
		}
		return "", wrong("want one of "+strings.Join(list, ", "), "unknown word %q", s)
	}, func(word T) string { return quoteString(string(word)) })
}

// without is a kind of which one word is kept as "".
func without[T ~string](word T, kind codec[T]) codec[T] {
	return codec[T]{func(r *reading, v value) (T, bool) {
		got, ok := kind.read(r, v)
		if got == word {
			got = ""
		}
		return got, ok
	}, func(kept T) string { return kind.print(cmp.Or(kept, word)) }}
}

// parseInteger reads an integer of TOML.
func parseInteger(v value) (int64, error) {
	if v.kind != unstable.Integer {
		return 0, wrong("want an integer", "is %s", v.kindName())
	}
	digits := strings.ReplaceAll(strings.TrimPrefix(v.text, "+"), "_", "")
	if bare := strings.TrimPrefix(digits, "-"); len(bare) > 1 && bare[0] == '0' && bare[1] >= '0' && bare[1] <= '9' {
		return 0, wrong(`an octal number is written 0o660, a mode also "0660"`, "leading zero")
	}
	n, err := strconv.ParseInt(digits, 0, 64)
	if err != nil {
		return 0, wrong("", "is no integer of 64 bits")
	}
	return n, nil
}

// number is an integer from least to most.
func number[T int | uint32 | uint64](least, most int64) codec[T] {
	return single(func(_ *reading, v value) (T, error) {
		n, err := parseInteger(v)
		if err == nil && (n < least || n > most) {
			err = wrong("", "%d is out of range, %d to %d", n, least, most)
		}
		return T(n), err
	}, func(n T) string { return fmt.Sprint(n) })
}

// ParseSize reads bytes with K, M, G or T, which are powers of 1024, behind them.
func ParseSize(s string) (uint64, error) {
	digits, unit := s, uint64(1)
	for letter, factor := range map[string]uint64{"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40} {
		if before, ok := strings.CutSuffix(s, letter); ok {
			digits, unit = before, factor
		}
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || digits[0] == '+' {
		return 0, wrong(`want bytes such as 65536, or "64K", "1M", "2G"`, "%q is no size", s)
	}
	if n > ^uint64(0)/unit {
		return 0, wrong("", "%q is too large", s)
	}
	return n * unit, nil
}

// readSize reads a number of bytes.
func readSize(v value) (uint64, error) {
	if v.kind == unstable.String {
		return ParseSize(v.text)
	}
	i, err := parseInteger(v)
	if err != nil {
		err = wrong(`want bytes such as 65536, or "64K", "1M", "2G"`, "%s", err)
	}
	return uint64(i), err // a negative one is too large
}

// amount is a number from least to most, or "infinity", which is kept as 0.
func amount(read func(v value) (uint64, error), least uint64) codec[uint64] {
	const most = 1<<63 - 1
	return single(func(_ *reading, v value) (uint64, error) {
		if v.kind == unstable.String && v.text == "infinity" {
			return 0, nil
		}
		n, err := read(v)
		if err == nil && (n < least || n > most) {
			err = wrong("", "%s is out of range, %d to %d, or \"infinity\"", v.raw, least, most)
		}
		return n, err
	}, func(n uint64) string {
		if n == 0 {
			return `"infinity"`
		}
		return strconv.FormatUint(n, 10)
	})
}

// readCount reads a number.
func readCount(v value) (uint64, error) {
	i, err := parseInteger(v)
	return uint64(i), err // a negative one is too large
}

// size is a number of bytes that fits an int of the kernel.
var size = single(func(_ *reading, v value) (int, error) {
	n, err := readSize(v)
	if err == nil && (n < 1 || n > 1<<31-1) {
		err = wrong("", "%s is out of range, 1 byte to 2147483647", v.raw)
	}
	return int(n), err
}, strconv.Itoa)

// longest bounds durations: sums and multiples of them stay durations.
const longest = 8760 * time.Hour

// duration is Go's, from least. forever, if not "", is what 0 is called: "never"
// or "infinity", both of which are read.
func duration(least time.Duration, forever string) codec[time.Duration] {
	want := `a duration such as "30s", "5m" or "100ms"`
	if forever != "" {
		want += ", or " + strconv.Quote(forever)
	}
	return plain(want, func(s string) (time.Duration, error) {
		if s == "never" || s == "infinity" {
			if forever == "" {
				return 0, wrong("want "+want, "%q has no meaning here", s)
			}
			return 0, nil
		}
		d, err := parseDuration(s)
		switch {
		case err != nil:
			return 0, wrong("want "+want, "%s", err)
		case d == 0 && forever != "":
			return 0, wrong(fmt.Sprintf("write %q for no limit", forever), "%q is no time at all", s)
		case d < least:
			return 0, wrong("", "%q is less than %v", s, least)
		case d > longest:
			return 0, wrong("", "%q is more than a year", s)
		}
		return d, nil
	}, func(d time.Duration) string {
		if d == 0 && forever != "" {
			return quoteString(forever)
		}
		return quoteString(d.String())
	})
}

func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err == nil {
		return d, nil
	}
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		return 0, fmt.Errorf("%q has no unit", s)
	}
	return 0, fmt.Errorf("%q is no duration", s)
}

// seconds is a duration that the kernel counts in seconds.
func seconds(most time.Duration) codec[time.Duration] {
	d := duration(time.Second, "")
	return codec[time.Duration]{func(r *reading, v value) (time.Duration, bool) {
		got, ok := d.read(r, v)
		if ok && (got%time.Second != 0 || got > most) {
			r.addValueError(v, wrong("", "%q is not a whole number of seconds up to %d", v.text, most/time.Second))
			return 0, false
		}
		return got, ok
	}, d.print}
}

// mode is the permission bits of a file.
var mode = single(func(_ *reading, v value) (fs.FileMode, error) {
	const want = `want octal digits: "0660" or 0o660`
	digits, octal := v.text, v.kind == unstable.String
	if v.kind == unstable.Integer {
		digits, octal = strings.CutPrefix(v.text, "0o")
	}
	n, err := strconv.ParseUint(digits, 8, 32)
	switch {
	case v.kind != unstable.String && v.kind != unstable.Integer:
		err = wrong(want, "is %s", v.kindName())
	case !octal:
		err = wrong(want, "%s is not marked as octal", v.raw)
	case err != nil:
		err = wrong(want, "%s is no mode", v.raw)
	case n > 0o777:
		err = wrong("", "%s has more than the permission bits, 0777", v.raw)
	}
	return fs.FileMode(n), err
}, func(m fs.FileMode) string { return fmt.Sprintf(`"%04o"`, uint32(m)) })

// folderMode is the mode of a folder that some user may enter.
var folderMode = codec[fs.FileMode]{func(r *reading, v value) (fs.FileMode, bool) {
	m, ok := mode.read(r, v)
	if ok && m == 0 {
		r.addValueError(v, wrong("", "%s lets nobody in, not even us", v.raw))
		return 0, false
	}
	return m, ok
}, mode.print}

// signals by name; those that are left out do not end a process.
var signals = []struct {
	name   string
	number syscall.Signal
}{
	{"HUP", syscall.SIGHUP}, {"INT", syscall.SIGINT}, {"QUIT", syscall.SIGQUIT}, {"ILL", syscall.SIGILL},
	{"TRAP", syscall.SIGTRAP}, {"ABRT", syscall.SIGABRT}, {"BUS", syscall.SIGBUS}, {"FPE", syscall.SIGFPE},
	{"KILL", syscall.SIGKILL}, {"USR1", syscall.SIGUSR1}, {"SEGV", syscall.SIGSEGV}, {"USR2", syscall.SIGUSR2},
	{"PIPE", syscall.SIGPIPE}, {"ALRM", syscall.SIGALRM}, {"TERM", syscall.SIGTERM}, {"STKFLT", syscall.SIGSTKFLT},
	{"XCPU", syscall.SIGXCPU}, {"XFSZ", syscall.SIGXFSZ}, {"VTALRM", syscall.SIGVTALRM}, {"PROF", syscall.SIGPROF},
	{"WINCH", syscall.SIGWINCH}, {"IO", syscall.SIGIO}, {"PWR", syscall.SIGPWR}, {"SYS", syscall.SIGSYS},
}

const firstRealTime, lastSignal = 34, 64 // as the C library counts, signal(7)

// signal is written TERM, SIGTERM or 15; RTMIN+n is a number too.
var signal = single(parseSignal, func(s syscall.Signal) string {
	for _, known := range signals {
		if s == known.number {
			return quoteString(known.name)
		}
	}
	return strconv.Itoa(int(s))
})

func parseSignal(_ *reading, v value) (syscall.Signal, error) {
	const want = `want a signal such as "TERM", "SIGTERM" or 15`
	if v.kind != unstable.String && v.kind != unstable.Integer {
		return 0, wrong(want, "is %s", v.kindName())
	}
	name := strings.TrimPrefix(strings.ToUpper(v.text), "SIG")
	var words []string
	for _, s := range signals {
		if name == s.name || name == strconv.Itoa(int(s.number)) {
			return s.number, nil
		}
		words = append(words, s.name)
	}
	offset, realTime := strings.CutPrefix(name, "RTMIN+")
	n, err := strconv.ParseUint(offset, 10, 8)
	if realTime {
		n += firstRealTime
	}
	if err == nil && n >= firstRealTime && n <= lastSignal {
		return syscall.Signal(n), nil
	}
	return 0, wrong(cmp.Or(suggestWord(name, words), want), "%s is no signal that ends a process", v.raw)
}
