package config

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2/unstable"
)

// value is one value of a document, with its place.
type value struct {
	kind  unstable.Kind // Table and ArrayTable for what headers and dotted keys make
	text  string        // String: what it means; numbers, booleans and dates: as written
	raw   string        // as written; "" for lists and tables
	at    int           // offset in the document
	items []value       // Array and ArrayTable
	table *table        // Table and InlineTable
}

// entry is one key of a table.
type entry struct {
	name  string
	at    int
	value value
}

// table is one table of a document, its keys in the order written.
type table struct {
	above   *table // nil of the top
	name    string // in it
	at      int    // of its header
	entries []*entry
	index   map[string]*entry // of a table with many entries
	origin  origin
	section int // the header below which dotted keys made it
}

// mostParts is how many parts a key may have. None with a meaning has more than 3.
const mostParts = 16

// indexed is the number of entries from which on a table has an index.
const indexed = 16

// origin says what may add to a table: toml.io/en/v1.0.0#table.
type origin uint8

const (
	implied origin = iota // by a header of a table in it: its own may follow
	headed                // by its own header
	dotted                // by dotted keys: more of them may follow below the same header
	inline                // closed
)

func (t *table) findEntry(name string) *entry {
	if t.index != nil {
		return t.index[name]
	}
	for _, e := range t.entries {
		if e.name == name {
			return e
		}
	}
	return nil
}

// keyPath is the whole name of a key in t, or its end, if it has more parts than any with a meaning.
func (t *table) keyPath(name string) string {
	path := quoteKey(name)
	for parts := 1; t.above != nil; t = t.above {
		if parts++; parts > mostParts {
			return "..." + path
		}
		path = quoteKey(t.name) + "." + path
	}
	return path
}

// quoteKey prints one part of a key, as TOML has it; of a long one the beginning.
func quoteKey(name string) string {
	odd := func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_'
	}
	rest := ""
	if runes := []rune(name[:min(len(name), 4*longestShown)]); len(runes) > longestShown {
		name, rest = string(runes[:longestShown]), "..."
	}
	if name == "" || strings.ContainsFunc(name, odd) {
		name = quoteString(name)
	}
	return name + rest
}

// longestShown is in characters: of a longer part of a key only the beginning is shown.
const longestShown = 64

func (t *table) addEntry(name string, at int, v value) *entry {
	e := &entry{name: name, at: at, value: v}
	t.entries = append(t.entries, e)
	if len(t.entries) == indexed {
		t.index = make(map[string]*entry, 2*indexed)
		for _, e := range t.entries {
			t.index[e.name] = e
		}
	} else if t.index != nil {
		t.index[name] = e
	}
	return e
}

// parseDocument reads the text of a file into its top table. What TOML itself
// forbids is reported; whole is false after an error of syntax, behind which
// nothing is read.
func (r *reading) parseDocument() (top *table, whole bool) {
	top = &table{origin: headed}
	if at := invalidUTF8(r.text); at >= 0 {
		r.addError(at, "", "not UTF-8", "save the file as UTF-8")
		return top, false
	}
	var p unstable.Parser
	p.Reset(r.text)
	d := builder{reading: r, parser: &p, top: top, current: top}
	for p.NextExpression() {
		d.addExpression(p.Expression())
	}
	var bad *unstable.ParserError
	if !errors.As(p.Error(), &bad) {
		return top, true
	}
	at := len(r.text)
	if bad.Highlight != nil {
		at = int(p.Range(bad.Highlight).Offset)
	}
	r.addError(at, "", bad.Message, syntaxCure(bad.Message))
	return top, false
}

func syntaxCure(message string) string {
	switch {
	case strings.Contains(message, "at start of value"), strings.Contains(message, "expected keyword"):
		return `text stands in quotes, as in key = "text"`
	case strings.Contains(message, "leading zero"):
		return `an octal number is written 0o660, a mode also "0660"`
	}
	return ""
}

func invalidUTF8(text []byte) int {
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

// builder makes tables of the parser's expressions.
type builder struct {
	*reading
	parser  *unstable.Parser
	top     *table
	current *table // of the header read last
	section int    // counts headers
}

func (d *builder) addExpression(n *unstable.Node) {
	switch n.Kind {
	case unstable.KeyValue:
		d.addKeyValue(d.current, n)
	case unstable.Table, unstable.ArrayTable:
		d.section++
		d.addHeader(n)
	}
}

// addHeader makes the table that a [header] or [[header]] opens. It makes one after a mistake too,
// so that mistakes in the keys below are found.
func (d *builder) addHeader(n *unstable.Node) {
	keys := d.keysOf(n.Key())
	if keys == nil {
		d.current = &table{origin: headed} // what is in it is nobody's
		return
	}
	path, last := keys[:len(keys)-1], keys[len(keys)-1]
	at := int(last.Raw.Offset)
	parent := d.top
	for _, k := range path {
		parent = d.enterTable(parent, k, implied)
	}
	name := string(last.Data)
	d.current = &table{above: parent, name: name, origin: headed, at: at}
	e := parent.findEntry(name)
	list := n.Kind == unstable.ArrayTable
	switch {
	case e == nil && list:
		parent.addEntry(name, at, value{kind: unstable.ArrayTable, at: at, items: []value{{kind: unstable.Table, at: at, table: d.current}}})
	case e == nil:
		parent.addEntry(name, at, value{kind: unstable.Table, at: at, table: d.current})
	case list && e.value.kind == unstable.ArrayTable:
		e.value.items = append(e.value.items, value{kind: unstable.Table, at: at, table: d.current})
	case !list && e.value.kind == unstable.Table && e.value.table.origin == implied:
		e.value.table.origin, d.current = headed, e.value.table
	default:
		d.reportRepeated(at, parent, e)
		if !list && e.value.kind == unstable.Table {
			d.current = e.value.table
		}
	}
}

// enterTable returns the table behind one part of a header or dotted key.
func (d *builder) enterTable(parent *table, k *unstable.Node, as origin) *table {
	name, at := string(k.Data), int(k.Raw.Offset)
	e := parent.findEntry(name)
	if e == nil {
		t := &table{above: parent, name: name, origin: as, section: d.section, at: at}
		parent.addEntry(name, at, value{kind: unstable.Table, at: at, table: t})
		return t
	}
	switch v := e.value; {
	case v.kind == unstable.ArrayTable && as == implied:
		return v.items[len(v.items)-1].table
	case v.kind == unstable.Table && as == implied:
		return v.table
	case v.kind == unstable.Table && v.table.origin == dotted && v.table.section == d.section:
		return v.table
	}
	d.reportRepeated(at, parent, e)
	return &table{above: parent, name: name, origin: as, section: d.section, at: at}
}

func (d *builder) reportRepeated(at int, in *table, first *entry) {
	if d.dropError(0) {
		return
	}
	line, column, _ := locateOffset(d.text, first.at)
	d.addError(at, in.keyPath(first.name), fmt.Sprintf("repeated: it is there already at %d:%d", line, column), "")
}

// addKeyValue adds what "key = value" says to t.
func (d *builder) addKeyValue(t *table, n *unstable.Node) {
	keys := d.keysOf(n.Key())
	if keys == nil {
		return
	}
	for _, k := range keys[:len(keys)-1] {
		t = d.enterTable(t, k, dotted)
	}
	last := keys[len(keys)-1]
	at := int(last.Raw.Offset)
	name := string(last.Data)
	v := d.copyValue(n.Value(), t, name, d.findValue(last))
	if e := t.findEntry(name); e != nil {
		d.reportRepeated(at, t, e)
		return
	}
	t.addEntry(name, at, v)
}

// findValue finds where the value of a key begins: lists have no place in the
// parser's tree.
func (d *builder) findValue(key *unstable.Node) int {
	at := int(key.Raw.Offset + key.Raw.Length)
	for at < len(d.text) && strings.IndexByte(" \t=", d.text[at]) >= 0 {
		at++
	}
	return at
}

// copyValue copies n, the value of a key called name in a table, which the parser reuses. at is its place if n has none.
func (d *builder) copyValue(n *unstable.Node, in *table, name string, at int) value {
	v := value{kind: n.Kind, at: at, text: string(n.Data)}
	switch n.Kind {
	case unstable.Array:
		for items := n.Children(); items.Next(); {
			v.items = append(v.items, d.copyValue(items.Node(), in, name, at))
		}
	case unstable.InlineTable:
		v.at = int(n.Raw.Offset)
		v.table = &table{above: in, name: name, origin: headed, at: v.at}
		for items := n.Children(); items.Next(); {
			d.addKeyValue(v.table, items.Node())
		}
		v.table.origin = inline
	default:
		v.at, v.raw = int(n.Raw.Offset), string(d.parser.Raw(n.Raw))
		if n.Kind == unstable.String && strings.Contains(v.raw, "\r\n") {
			v.text = readAgain(strings.ReplaceAll(v.raw, "\r\n", "\n"))
		}
	}
	return v
}

// readAgain reads a string. The line ends in it are those of the file, which an editor of Windows has made,
// and no program here wants.
func readAgain(raw string) string {
	var p unstable.Parser
	p.Reset([]byte("x = " + raw))
	if !p.NextExpression() {
		return ""
	}
	return string(p.Expression().Value().Data)
}

// keysOf returns the parts of a key. One with more than any key can have is reported, and nil is returned: nothing is made
// of what it names.
func (d *builder) keysOf(keys unstable.Iterator) []*unstable.Node {
	var all []*unstable.Node
	for keys.Next() {
		if all = append(all, keys.Node()); len(all) > mostParts {
			d.addError(int(all[0].Raw.Offset), "", fmt.Sprintf("a key of more than %d parts", mostParts), "no key has more than 3, as service.limits.nofile")
			return nil
		}
	}
	return all
}

// kindName names the kind of a value for the user.
func (v value) kindName() string {
	switch v.kind {
	case unstable.String:
		return "a string"
	case unstable.Integer:
		return "an integer"
	case unstable.Float:
		return "a float"
	case unstable.Bool:
		return "a boolean"
	case unstable.Array:
		return "a list"
	case unstable.Table, unstable.InlineTable:
		return "a table"
	case unstable.ArrayTable:
		return "a list of tables"
	}
	return "a date"
}

// offsetOf returns the place of the i-th byte of a string. With escapes in the string it is the
// place of the string.
func (v value) offsetOf(i int) int {
	quotes := 1
	if strings.HasPrefix(v.raw, "'''") || strings.HasPrefix(v.raw, `"""`) {
		quotes = 3
	}
	if len(v.raw) < 2*quotes {
		return v.at
	}
	inside := v.raw[quotes : len(v.raw)-quotes]
	before := len(inside)
	if quotes == 3 { // the first line end is no part of it
		if first := strings.TrimPrefix(inside, "\r\n"); first != inside {
			inside = first
		} else {
			inside = strings.TrimPrefix(inside, "\n")
		}
	}
	at := v.at + quotes + before - len(inside)
	if strings.ReplaceAll(inside, "\r\n", "\n") != v.text {
		return v.at
	}
	for ; i > 0 && inside != ""; i-- {
		size := 1
		if strings.HasPrefix(inside, "\r\n") {
			size = 2
		}
		at, inside = at+size, inside[size:]
	}
	return at
}
