package config

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"activator/internal/spec"
)

// list is a list of a kind; an empty one is none.
func list[T any](item codec[T]) codec[[]T] {
	return codec[[]T]{func(r *reading, v value) ([]T, bool) {
		if v.kind != unstable.Array {
			r.addValueError(v, listInstead(v))
			return nil, false
		}
		var all []T
		good := true
		for _, i := range v.items {
			got, ok := item.read(r, i)
			all = append(all, got)
			good = good && ok
		}
		return all, good
	}, func(all []T) string {
		printed := make([]string, len(all))
		for i, one := range all {
			printed[i] = item.print(one)
		}
		return "[" + strings.Join(printed, ", ") + "]"
	}}
}

func listInstead(v value) error {
	if v.kind == unstable.String {
		words := strings.Fields(v.text)
		for i, w := range words {
			words[i] = quoteString(w)
		}
		return wrong("write ["+strings.Join(words, ", ")+"]", "is a string, not a list")
	}
	return wrong(`want a list such as ["a", "b"]`, "is %s", v.kindName())
}

// distinct is a list in which nothing may stand twice.
func distinct[T any](item codec[T]) codec[[]T] {
	all := list(item)
	return codec[[]T]{func(r *reading, v value) ([]T, bool) {
		got, good := all.read(r, v)
		seen := make(map[string]bool)
		for i, one := range got {
			printed := item.print(one)
			if good && seen[printed] {
				r.addValueError(v.items[i], wrong("", "repeated: %s", printed))
				return nil, false
			}
			seen[printed] = true
		}
		return got, good
	}, all.print}
}

// capability is kept as capabilities(7) writes it.
var capability = plain(`a capability such as "CAP_NET_BIND_SERVICE"`, func(s string) (string, error) {
	if _, known := spec.ParseCapability(s); !known {
		return "", wrong("capabilities(7) lists them", "there is no capability %q", s)
	}
	return "CAP_" + strings.TrimPrefix(strings.ToUpper(s), "CAP_"), nil
}, quoteString)

// environment is a list of "NAME=value", or a table; it is kept sorted.
var environment = codec[[]string]{func(r *reading, v value) ([]string, bool) {
	var env []string
	before := r.countErrors()
	seen := make(map[string]bool)
	add := func(at value, name, text string) {
		err := checkVariable(name)
		expanded := ""
		if err == nil {
			expanded, err = r.expandProgram(text)
			err = shiftMistake(err, strings.LastIndex(at.text, text))
		}
		if err == nil && seen[name] {
			err = wrong("", "repeated: %s", name)
		}
		if err != nil {
			r.addValueError(at, err)
		}
		seen[name] = true
		env = append(env, name+"="+expanded)
	}
	switch {
	case v.table != nil:
		for _, e := range v.table.entries {
			if e.value.kind != unstable.String {
				r.addValueError(e.value, wrong(`want a string, as in NAME = "value"`, "is %s", e.value.kindName()))
				continue
			}
			add(e.value, e.name, e.value.text)
		}
	case v.kind == unstable.Array:
		for _, item := range v.items {
			name, text, found := strings.Cut(item.text, "=")
			if item.kind != unstable.String || !found {
				r.addValueError(item, wrong("", `want "NAME=value"`))
				continue
			}
			add(item, name, text)
		}
	default:
		r.addValueError(v, wrong(`want a list, ["NAME=value"], or a table, { NAME = "value" }`, "is %s", v.kindName()))
	}
	slices.Sort(env)
	return env, r.countErrors() == before
}, list(argument).print}

// checkVariable holds a name against the rule of systemd.exec(5).
func checkVariable(name string) error {
	for i, c := range name {
		if c != '_' && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && (c < '0' || c > '9' || i == 0) {
			return wrong("letters, digits and _, a digit not first", "%q is no name of a variable", name)
		}
	}
	if name == "" {
		return wrong("", "a variable without a name")
	}
	if name == "NOTIFY_SOCKET" || strings.HasPrefix(name, "LISTEN_") {
		return wrong("", "%s is for the activator to set", name)
	}
	return nil
}

// limits is a table of resources; it is kept sorted.
var limits = codec[[]spec.Limit]{func(r *reading, v value) ([]spec.Limit, bool) {
	if v.table == nil {
		r.addValueError(v, wrong("want a table such as { nofile = 1024 }", "is %s", v.kindName()))
		return nil, false
	}
	var all []spec.Limit
	before := r.countErrors()
	resources := spec.ListResources()
	for _, e := range v.table.entries {
		if !slices.Contains(resources, e.name) {
			cure := suggestWord(strings.TrimPrefix(strings.ToLower(e.name), "rlimit_"), resources)
			r.addError(e.at, r.key+"."+quoteKey(e.name), "unknown limit", cmp.Or(cure, "there are "+strings.Join(resources, ", ")))
			continue
		}
		soft, hard, err := parseLimit(e.value)
		if err != nil {
			r.addValueError(e.value, err)
		}
		all = append(all, spec.Limit{Resource: e.name, Soft: soft, Hard: hard})
	}
	slices.SortFunc(all, func(a, b spec.Limit) int { return strings.Compare(a.Resource, b.Resource) })
	return all, r.countErrors() == before
}, func(all []spec.Limit) string {
	if len(all) == 0 {
		return "{}"
	}
	printed := make([]string, len(all))
	for i, l := range all {
		printed[i] = l.Resource + " = " + printLimit(l)
	}
	return "{ " + strings.Join(printed, ", ") + " }"
}}

// parseLimit reads one value for both, or "soft:hard".
func parseLimit(v value) (soft, hard uint64, err error) {
	const want = `want a number, a size such as "64M", "infinity", or "soft:hard" of these`
	if v.kind == unstable.Integer {
		n, err := parseInteger(v)
		if err == nil && n < 0 {
			err = wrong(want, "%d is less than 0", n)
		}
		return uint64(n), uint64(n), err
	}
	if v.kind != unstable.String {
		return 0, 0, wrong(want, "is %s", v.kindName())
	}
	first, second, both := strings.Cut(v.text, ":")
	soft, err = parseAmount(first)
	hard = soft
	if both && err == nil {
		hard, err = parseAmount(second)
	}
	if err != nil {
		return 0, 0, wrong(want, "%s is no limit", v.raw)
	}
	if soft > hard {
		return 0, 0, wrong("", "%s: the soft limit is above the hard one", v.raw)
	}
	return soft, hard, nil
}

func parseAmount(s string) (uint64, error) {
	if s == "infinity" || s == "unlimited" {
		return spec.Unlimited, nil
	}
	return ParseSize(s)
}

func printLimit(l spec.Limit) string {
	one := func(n uint64) string {
		if n == spec.Unlimited {
			return "infinity"
		}
		return strconv.FormatUint(n, 10)
	}
	switch {
	case l.Soft != l.Hard:
		return quoteString(one(l.Soft) + ":" + one(l.Hard))
	case l.Soft > 1<<63-1:
		return quoteString(one(l.Soft))
	}
	return one(l.Soft)
}

// directory is the key of one kind of a service's own directories: a name, or a
// list of them. All kinds are kept in one list.
func directory(kind string) field[spec.Service] {
	many := distinct(directoryName)
	own := func(s *spec.Service) (names []string) {
		for _, d := range s.Directories {
			if d.Kind == kind {
				names = append(names, d.Name)
			}
		}
		return names
	}
	return field[spec.Service]{
		key: kind + "_directory",
		read: func(r *reading, s *spec.Service, v value) {
			if v.kind == unstable.String {
				v = value{kind: unstable.Array, at: v.at, items: []value{v}}
			}
			got, _ := many.read(r, v)
			for _, name := range got {
				s.Directories = append(s.Directories, spec.Directory{Kind: kind, Name: name})
			}
		},
		reset:  func(*spec.Service) {},
		clear:  func(*spec.Service) {},
		print:  func(s *spec.Service) string { return many.print(own(s)) },
		normal: func(s *spec.Service) bool { return len(own(s)) == 0 },
	}
}
