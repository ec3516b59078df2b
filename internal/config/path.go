package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2/unstable"
	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

// expanded is a kind that is written as a string with specifiers in it; parse
// sees what they stand for.
func expanded[T any](want string, parse func(r *reading, s string) (T, error), print func(T) string) codec[T] {
	return stringOf(want, func(r *reading, written string) (got T, err error) {
		s, err := r.expandText(written)
		if err == nil {
			got, err = parse(r, s)
		}
		return got, err
	}, print)
}

func printText(s string) string { return quoteString(escapeText(s)) }

// text is any text.
var text = expanded("a string", func(_ *reading, s string) (string, error) { return s, nil }, printText)

// filled is any text but none.
var filled = expanded("a string", func(_ *reading, s string) (string, error) {
	if s == "" {
		return "", wrong("", "is empty")
	}
	return s, nil
}, printText)

// hostPath is a path on the host, relative to the file.
var hostPath = expanded("a path", (*reading).hostPath, printText)

func (r *reading) hostPath(s string) (string, error) {
	switch {
	case s == "":
		return "", wrong("", "is empty; want a path")
	case s == "~" || strings.HasPrefix(s, "~/"):
		return "", wrong("write "+writeFile(s), `"~" is the shell's`)
	case filepath.IsAbs(s):
		return checkPath(s)
	}
	if err := refuseParent(trimRelative(s)); err != nil {
		return "", err
	}
	if !utf8.ValidString(r.dir) {
		return "", wrong("write an absolute path", "the path of this file is not UTF-8, so %q cannot be relative to it", s)
	}
	return checkLength(filepath.Join(r.dir, s))
}

// writeFile writes a path as a key of a file takes it that a shell or systemd takes otherwise.
func writeFile(path string) string {
	switch {
	case path == "~" || strings.HasPrefix(path, "~/"):
		return quoteString("%h" + escapeText(path[1:]))
	case !strings.Contains(path, "/"):
		path = "./" + path
	}
	return printText(path)
}

// trimRelative takes what leads up from the file's own folder off the beginning of a path, as in "../bin/echo".
func trimRelative(path string) string {
	first, rest, _ := strings.Cut(path, "/")
	for path != "" && (first == "" || first == "." || first == "..") {
		path = rest
		first, rest, _ = strings.Cut(path, "/")
	}
	return path
}

// refuseParent refuses ".." behind a name, which may be that of a link.
func refuseParent(path string) error {
	if text, cure := spec.ExplainParent(path); text != "" {
		return wrong(cure, "%s", text)
	}
	return nil
}

// checkPath returns an absolute path without what says nothing in it.
func checkPath(path string) (string, error) {
	if err := refuseParent(path); err != nil {
		return "", err
	}
	return checkLength(filepath.Clean(path))
}

// checkLength refuses what the kernel takes for no path, path_resolution(7).
func checkLength(path string) (string, error) {
	for name := range strings.SplitSeq(path, "/") {
		if len(name) > unix.NAME_MAX {
			return "", wrong(fmt.Sprintf("the kernel takes %d", unix.NAME_MAX), "a name in the path has %d bytes", len(name))
		}
	}
	if len(path) >= unix.PathMax {
		return "", wrong(fmt.Sprintf("the kernel takes %d", unix.PathMax-1), "the path has %d bytes", len(path))
	}
	return path, nil
}

// insidePath is a path as the service sees it.
var insidePath = expanded("an absolute path", func(_ *reading, s string) (string, error) {
	return cleanInside(s)
}, printText)

func cleanInside(s string) (string, error) {
	if !filepath.IsAbs(s) {
		return "", wrong("it is a path inside the sandbox, which has no folder to be relative to", "%q is not absolute", s)
	}
	return checkPath(s)
}

// mountPoint is where the configuration may mount something.
var mountPoint = expanded("an absolute path", func(_ *reading, s string) (string, error) {
	return cleanMountPoint(s)
}, printText)

// cleanMountPoint refuses what the sandbox will refuse.
func cleanMountPoint(s string) (string, error) {
	path, err := cleanInside(s)
	below := func(folder string) bool { return spec.IsBelow(path, folder) }
	switch {
	case err != nil:
		return "", err
	case path == "/":
		return "", wrong(`root = "..." says what the root is`, "nothing can be mounted on the root")
	case below("/proc"), below("/dev") && !below("/dev/shm"):
		return "", wrong("", "%s is always fresh, nothing can be mounted there", path)
	}
	return path, nil
}

// mount is "host:inside"; a single path is both.
var mount = expanded(`a path or "host:inside"`, func(r *reading, s string) (spec.Mount, error) {
	host, inside, both := strings.Cut(s, ":")
	if strings.Contains(inside, ":") {
		return spec.Mount{}, wrong("read_only and writable say what may be done", `%q has more than "host:inside"`, s)
	}
	path, err := r.hostPath(host)
	if err != nil {
		return spec.Mount{}, err
	}
	if !both {
		inside = path
	}
	if strings.Contains(path, ":") {
		return spec.Mount{}, wrong("", "%s: a path with a colon cannot be told from \"host:inside\"", path)
	}
	inside, err = cleanMountPoint(inside)
	return spec.Mount{Host: path, Inside: inside}, err
}, func(m spec.Mount) string {
	if m.Host == m.Inside {
		return printText(m.Host)
	}
	return printText(m.Host + ":" + m.Inside)
})

// directoryName is a path below the base of its kind.
var directoryName = expanded("a name", func(_ *reading, s string) (string, error) {
	name := filepath.Clean(s)
	if !filepath.IsLocal(s) || name == "." || strings.Contains(s, ":") || refuseParent(s) != nil {
		return "", wrong(`want a name such as "echo", relative and without ".." or a colon`, "%q is no name below the base folder", s)
	}
	return checkLength(name)
}, printText)

// output is where stdout or stderr goes.
var output = expanded("a string", func(r *reading, s string) (string, error) {
	way, path, named := strings.Cut(s, ":")
	switch {
	case s == "log" || s == "inherit" || s == "null":
		return s, nil
	case named && path == "" && (way == "append" || way == "file" || way == "truncate"):
		return "", wrong(wantOutput, "%q is systemd's way to name a file, and names none", s)
	case named && (way == "append" || way == "file" || way == "truncate"):
		return "", wrong(fmt.Sprintf("write the path alone, %s: what is printed is added to the file", writeFile(path)), "%q is systemd's way to name a file", s)
	case named && way == "ns", named && way == "fd", s == "journal", s == "syslog", s == "kmsg", s == "tty", s == "socket", strings.HasSuffix(s, "+console"):
		return "", wrong(`write "log", which is where the activator's own lines go, or a file`, "%q is systemd's, and there is no such thing here", s)
	case !strings.Contains(s, "/"):
		return "", wrong(wantOutput, "unknown word %q", s)
	}
	return r.hostPath(s)
}, printText)

const wantOutput = `want "log", "inherit", "null", or a file with a slash, as in "./echo.log"`

// network is what the service is connected to.
var network = expanded("a string", func(r *reading, s string) (string, error) {
	name, named := strings.CutPrefix(s, "netns:")
	switch {
	case s == "none" || s == "host":
		return s, nil
	case named && (name == "" || name == "." || name == ".." || strings.Contains(name, "/")):
		return "", wrong("`ip netns list` lists them", "%q is no name of a network namespace", name)
	case named:
		return s, nil
	case !strings.Contains(s, "/"):
		return "", wrong(`want "none", "host", "netns:NAME", or the path of a network namespace`, "unknown word %q", s)
	}
	return r.hostPath(s)
}, printText)

// account is the name or number of a user or group.
var account = codec[string]{func(r *reading, v value) (string, bool) {
	if v.kind == unstable.Integer {
		n, ok := number[uint32](0, 1<<31-1).read(r, v)
		return strconv.Itoa(int(n)), ok
	}
	return accountName.read(r, v)
}, printText}

var accountName = expanded("a name or a number", func(_ *reading, s string) (string, error) {
	odd := func(c rune) bool {
		return c == ':' || c == '/' || c == ',' || unicode.IsSpace(c) || !unicode.IsPrint(c)
	}
	if s == "" || s[0] == '-' || strings.ContainsFunc(s, odd) {
		return "", wrong("want a name or a number", "%q is no name of a user or group", s)
	}
	if strings.Trim(s, "0123456789") == "" {
		n, err := strconv.ParseUint(s, 10, 31)
		if err != nil {
			return "", wrong("", "%q is out of range, 0 to %d", s, 1<<31-1)
		}
		s = strconv.FormatUint(n, 10)
	}
	return s, nil
}, printText)

// fdName is what may stand in LISTEN_FDNAMES; the rule is systemd's.
var fdName = expanded("a string", func(_ *reading, s string) (string, error) {
	odd := func(c rune) bool { return c == ':' || c < ' ' || c >= 0x7f }
	switch {
	case s == "":
		return "", wrong("left away, it is the service's name", "is empty")
	case len(s) > 255:
		return "", wrong("", "has %d bytes, more than 255", len(s))
	case strings.ContainsFunc(s, odd):
		return "", wrong("want printable ASCII without a colon, which separates names", "%q cannot stand in LISTEN_FDNAMES", s)
	}
	return s, nil
}, printText)

// kernelName is a name of at most 15 bytes: of an interface, or of a way to
// control congestion.
func kernelName(what string) codec[string] {
	return expanded(what, func(_ *reading, s string) (string, error) {
		if s == "" || len(s) > 15 || s == "." || s == ".." || strings.ContainsAny(s, "/: \t\n\v\f\r") {
			return "", wrong("", "%q cannot be %s", s, what)
		}
		return s, nil
	}, printText)
}

// place is an address, and where it is written.
type place struct {
	spec.Address
	at int
}

// address is one address. Specifiers are those of a path: in "[fe80::1%eth0]"
// the percent sign is part of the address.
var address = codec[place]{func(r *reading, v value) (place, bool) {
	a, ok := plainAddress.read(r, v)
	return place{a, v.at}, ok
}, func(p place) string { return printAddress(p.Address) }}

var plainAddress = stringOf(`an address such as "tcp://127.0.0.1:3000"`, (*reading).parseAddress, printAddress)

func printAddress(a spec.Address) string {
	if a.Path != "" {
		return printText(a.String())
	}
	return quoteString(a.String())
}

func (r *reading) parseAddress(s string) (spec.Address, error) {
	scheme, path, _ := strings.Cut(s, "://")
	switch spec.Network(scheme) {
	case spec.Unix, spec.UnixGram, spec.UnixPacket, spec.FIFO:
		var err error
		if path, err = r.expandFrom(len(scheme)+len("://"), path); err != nil {
			return spec.Address{}, err
		}
		// Only what says that it is relative: "unix://run/x" lacks a slash.
		if strings.HasPrefix(path, "./") || strings.HasPrefix(path, "../") {
			if path, err = r.hostPath(path); err != nil {
				return spec.Address{}, err
			}
		}
		s = scheme + "://" + path
	}
	a, err := spec.ParseAddress(s)
	var bad *spec.AddressError
	if errors.As(err, &bad) { // the line is shown beside it
		err = &mistake{text: bad.Text, cure: bad.Cure}
	}
	return a, err
}

// target is the address that the program itself binds.
var target = stringOf(`an address such as "tcp://127.0.0.1:3000"`, func(r *reading, s string) (spec.Address, error) {
	if _, path, _ := strings.Cut(s, "://"); strings.HasPrefix(path, ".") {
		return spec.Address{}, wrong("write the whole path", "is a path inside, which has nothing to be relative to")
	}
	return r.parseAddress(s)
}, printAddress)
