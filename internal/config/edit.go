package config

import (
	"bytes"
	"cmp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"activator/internal/spec"
)

// AppendEdited appends to b the text of the source's file, changed so that it gives the service to. That has the
// sockets of the source's service, maybe with other targets. What is the same stays as it is written: its order, its
// comments and its spelling. why returns comments for a key that is new or has another value, as in [AppendChanged].
// Where the text cannot be changed like this, the service is printed anew.
func (s Source) AppendEdited(b []byte, to spec.Service, why func(key string) []string) []byte {
	r := &reading{text: s.from.text}
	top, _ := r.parseDocument()
	e := &edit{text: r.text, why: why, lineEnd: "\n"}
	if bytes.Contains(r.text, []byte("\r\n")) {
		e.lineEnd = "\r\n"
	}
	from := s.Service
	e.editSockets(s, top, to)
	editSection(e, top, "service", serviceKeys(), &from, &to)
	editSection(e, top, "sandbox", sandboxKeys(), &from, &to)
	if text := e.apply(); s.isText(text, to) {
		return append(b, text...)
	}
	return AppendChanged(b, to, why)
}

// isText reports whether a text in place of the source's file gives a service.
func (s Source) isText(text []byte, want spec.Service) bool {
	p := parseFile(s.from.file, text, s.from.env)
	if len(p.errs) > 0 {
		return false
	}
	want.Sockets = slices.Clone(want.Sockets)
	for i := range want.Sockets {
		if !want.Inherits() {
			fillTarget(&want.Sockets[i])
		}
	}
	got := p.service
	got.Sockets = slices.DeleteFunc(got.Sockets, func(one spec.Socket) bool { // which this host has not got, see WithoutSockets
		return !slices.ContainsFunc(want.Sockets, func(other spec.Socket) bool { return one.Address == other.Address })
	})
	return bytes.Equal(AppendTOML(nil, got), AppendTOML(nil, want))
}

// edit collects the changes of a text.
type edit struct {
	text    []byte
	why     func(key string) []string
	lineEnd string
	changes []change
}

// change puts text in place of what stands from one offset to another.
type change struct {
	from, to int
	text     string
}

func (e *edit) replace(from, to int, text string) {
	e.changes = append(e.changes, change{from, to, strings.ReplaceAll(text, "\n", e.lineEnd)})
}

// apply returns the text with its changes. Those at one place follow each other in the order in which they were made.
func (e *edit) apply() []byte {
	slices.SortStableFunc(e.changes, func(a, b change) int { return cmp.Compare(a.from, b.from) })
	var b []byte
	at := 0
	for _, c := range e.changes {
		b = append(append(b, e.text[at:c.from]...), c.text...)
		at = c.to
	}
	return append(b, e.text[at:]...)
}

// editSection changes the keys of a table that have another value, and adds those that are not written.
func editSection[S any](e *edit, top *table, name string, keys []field[S], from, to *S) {
	var in *table
	if written := top.findEntry(name); written != nil && written.value.table.origin != implied {
		in = written.value.table
	}
	var lines []byte
	for i := range keys {
		f := &keys[i]
		if before, after := f.print(from), f.print(to); before != after {
			lines = append(lines, e.setKey(in, name, f.key, before, after)...)
		}
	}
	switch {
	case len(lines) == 0:
	case in == nil:
		e.appendText("\n[" + name + "]\n" + string(lines))
	default:
		e.insertBehind(in, string(lines))
	}
}

// setKey gives a key another value. If it is not written, it returns the lines to add to its table.
func (e *edit) setKey(in *table, section, key, before, after string) (lines []byte) {
	comments := AppendComments(nil, e.why(section+"."+key))
	if in != nil {
		if written := in.findEntry(key); written != nil {
			e.insertComments(written.at, comments)
			e.setValue(written.value, before, after)
			return nil
		}
	}
	if in != nil && in.origin == dotted { // as in "service.exec = [...]"
		key = section + "." + key
	}
	return append(comments, key+" = "+after+"\n"...)
}

// insertComments puts comments above the line of an offset, but for those that stand there.
func (e *edit) insertComments(at int, comments []byte) {
	start := e.lineStart(at)
	indent := e.text[start : start+e.countBlanks(start)]
	for line := range strings.Lines(string(comments)) {
		if !bytes.Contains(e.text[:start], []byte(strings.TrimSuffix(line, "\n")+e.lineEnd)) {
			e.replace(start, start, string(indent)+line)
		}
	}
}

// setValue gives a value that is written another one. A list keeps its items as they are written.
func (e *edit) setValue(v value, before, after string) {
	old, now, written := listItems(before), listItems(after), v.items
	if v.kind == unstable.String {
		written = []value{v}
	}
	if !strings.HasPrefix(after, "[") || len(written) != len(old) {
		e.replace(v.at, e.endOf(v), after)
		return
	}
	var kept []string
	for i, item := range old {
		if n := len(kept); n < len(now) && now[n] == item {
			kept = append(kept, written[i].raw)
		}
	}
	added := now[len(kept):]
	if v.kind == unstable.Array && len(kept) == len(old) {
		e.addItems(v, added)
		return
	}
	e.replace(v.at, e.endOf(v), "["+strings.Join(append(kept, added...), ", ")+"]")
}

// listItems are the items of a list, as they are printed; none of another value.
func listItems(printed string) (items []string) {
	r := &reading{text: []byte("x = " + printed)}
	top, _ := r.parseDocument()
	for _, written := range top.entries {
		for _, item := range written.value.items {
			items = append(items, item.raw)
		}
	}
	return items
}

// addItems adds items to a list: each on a line of its own, if the last one is.
func (e *edit) addItems(v value, added []string) {
	text := strings.Join(added, ", ")
	if len(v.items) == 0 {
		e.replace(v.at+1, v.at+1, text)
		return
	}
	last := v.items[len(v.items)-1]
	end, closing := e.endOf(last), e.endOf(v)-1
	own := e.lineStart(closing)
	if own <= end || own+e.countBlanks(own) != closing {
		e.replace(end, end, ", "+text)
		return
	}
	if !hasComma(e.text[end:closing]) {
		e.replace(end, end, ",")
	}
	start := e.lineStart(last.at)
	indent := string(e.text[start : start+e.countBlanks(start)])
	for _, item := range added {
		e.replace(own, own, indent+item+",\n")
	}
}

// hasComma reports whether a comma stands in a text beside comments.
func hasComma(text []byte) bool {
	for line := range bytes.Lines(text) {
		if code, _, _ := bytes.Cut(line, []byte("#")); bytes.IndexByte(code, ',') >= 0 {
			return true
		}
	}
	return false
}

// endOf returns the offset behind a value.
func (e *edit) endOf(v value) int {
	end := v.at + 1 // of a list or table in brackets: behind the first one
	switch {
	case v.kind == unstable.Array && len(v.items) > 0:
		end = e.endOf(v.items[len(v.items)-1])
	case v.table != nil && len(v.table.entries) > 0:
		end = e.endOf(v.table.entries[len(v.table.entries)-1].value)
	case v.kind != unstable.Array && v.kind != unstable.InlineTable:
		return v.at + len(v.raw)
	}
	if v.kind == unstable.Table { // of dotted keys: it has no brackets
		return end
	}
	for end < len(e.text) && e.text[end] != ']' && e.text[end] != '}' { // commas, blanks and comments
		if e.text[end] == '#' {
			end = e.lineBehind(end)
		} else {
			end++
		}
	}
	return min(end+1, len(e.text))
}

// insertBehind puts lines behind the last key of a table that is written below its header.
func (e *edit) insertBehind(t *table, lines string) {
	end := t.at
	for _, one := range t.entries {
		if one.value.table == nil || one.value.table.origin == dotted || one.value.kind == unstable.InlineTable {
			end = max(end, e.endOf(one.value))
		}
	}
	if end = e.lineBehind(end); end > 0 && e.text[end-1] != '\n' {
		lines = "\n" + lines
	}
	e.replace(end, end, lines)
}

// appendText puts text at the end.
func (e *edit) appendText(text string) {
	if n := len(e.text); n > 0 && e.text[n-1] != '\n' {
		text = "\n" + text
	}
	e.replace(len(e.text), len(e.text), text)
}

func (e *edit) lineStart(at int) int { return bytes.LastIndexByte(e.text[:at], '\n') + 1 }

// lineBehind returns the offset at which the next line begins.
func (e *edit) lineBehind(at int) int {
	if n := bytes.IndexByte(e.text[at:], '\n'); n >= 0 {
		return at + n + 1
	}
	return len(e.text)
}

func (e *edit) countBlanks(at int) int {
	return len(e.text[at:]) - len(bytes.TrimLeft(e.text[at:], " \t"))
}
