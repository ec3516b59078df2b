package config

import (
	"errors"
	"slices"

	"activator/internal/spec"
)

// Source is a file that was read: its service, and where each key is written.
type Source struct {
	Service spec.Service
	from    *parsed // nil: the places are forgotten
}

// WithoutPlaces returns the source of a service that runs, about whose keys no error is written
// any more: the places are more than the service.
func (s Source) WithoutPlaces() Source { return Source{Service: s.Service} }

// WithoutSockets returns the source without the sockets for which absent is true, and these
// sockets. It takes none away if none would be left, or if the program is told the numbers of its
// descriptors, which would change.
func (s Source) WithoutSockets(absent func(spec.Socket) bool) (Source, []spec.Socket) {
	left := s
	from := *s.from
	left.from, left.Service.Sockets, from.claims = &from, nil, nil
	var out []spec.Socket
	for i, socket := range s.Service.Sockets {
		if absent(socket) {
			out = append(out, socket)
			continue
		}
		left.Service.Sockets = append(left.Service.Sockets, socket)
		from.claims = append(from.claims, s.from.claims[i])
	}
	if s.from.numbered || len(left.Service.Sockets) == 0 || len(out) == 0 {
		return s, nil
	}
	left.Service.Complete()
	return left, out
}

// Place is a part of a file: a key, and which one of it.
type Place struct {
	Key    string // "service.exec"
	Socket int    // of "socket.": the address it is about, from 0
	Item   int    // of a list: from 1; 0: the list
	Name   string // of a table: the entry; "": the table
}

// Error returns an error about a place. A key that is not written has no line: its default is
// wrong.
func (s Source) Error(p Place, text, cure string) *Error {
	if s.from == nil {
		return &Error{File: s.Service.File, Key: p.Key, Text: text, Cure: cure}
	}
	r := s.from.reading
	v, given := s.findValue(p)
	if !given {
		return &Error{File: r.file, Key: p.Key, Text: text, Cure: cure}
	}
	return r.newError(v.at, p.Key, text, cure)
}

func (s Source) findValue(p Place) (value, bool) {
	v, given := s.from.given[p.Key]
	if p.Socket < len(s.from.claims) {
		c := s.from.claims[p.Socket]
		if p.Key == "socket.listen" {
			return value{at: c.at}, true
		}
		if of, there := c.given[p.Key]; there {
			v, given = of, true
		}
	}
	if 0 < p.Item && p.Item <= len(v.items) {
		v = v.items[p.Item-1]
	}
	if v.table != nil && p.Name != "" {
		if e := v.table.findEntry(p.Name); e != nil {
			v = e.value
		}
	}
	return v, given
}

// IsCurable reports whether err is an [Errors], one of which can be cured in a file.
func IsCurable(err error) bool {
	var all Errors
	if !errors.As(err, &all) {
		return false
	}
	return slices.ContainsFunc(all, func(one *Error) bool { return !one.Host })
}
