package config

import (
	"slices"
	"strings"

	"activator/internal/spec"
)

// editSockets writes the targets that have changed.
func (e *edit) editSockets(s Source, top *table, to spec.Service) {
	for _, t := range top.findEntry("socket").value.listTables() {
		listen := t.findEntry("listen").value
		of := make([]int, len(listen.items)) // the socket of each address; -1: this host has not got it
		changed := make([]bool, len(of))
		for i, item := range listen.items {
			of[i] = slices.IndexFunc(s.from.claims, func(c claim) bool { return c.at == item.at })
			if n := of[i]; n >= 0 {
				was, is := s.Service.Sockets[n], to.Sockets[n]
				changed[i] = fillTarget(&was) != fillTarget(&is)
			}
		}
		first := slices.Index(changed, true)
		if first < 0 {
			continue
		}
		keep := max(first, 1) // the others get tables of their own: a target is for one address
		if first == 0 {
			socket := to.Sockets[of[0]]
			e.insertBehind(t, string(e.setTarget(t, socket)))
		}
		if keep < len(of) {
			e.splitTable(t, listen, of, keep, to)
		}
	}
}

// setTarget is setKey of the target of a table's only socket.
func (e *edit) setTarget(t *table, socket spec.Socket) []byte {
	why := e.why
	e.why = explainSocket(why, socket)
	defer func() { e.why = why }()
	return e.setKey(t, "socket", "target", "", printAddress(socket.Target))
}

// splitTable leaves the first addresses of a table in it, and those that this host has not got. The others follow, each in
// a table of its own.
func (e *edit) splitTable(t *table, listen value, of []int, keep int, to spec.Service) {
	var kept []string
	var tables []byte
	for i, item := range listen.items {
		if i < keep || of[i] < 0 {
			kept = append(kept, item.raw)
			continue
		}
		tables = appendSocket(append(tables, '\n'), to, to.Sockets[of[i]], e.why)
	}
	e.replace(listen.at, e.endOf(listen), "["+strings.Join(kept, ", ")+"]")
	e.insertBehind(t, string(tables))
}
