package process

import (
	"encoding/binary"
	"io/fs"

	"activator/internal/spec"
)

// codec writes a plan or reads one: both by the same list of fields, so that
// they cannot differ. Not JSON: it changes bytes that are not UTF-8, which paths
// and the environment may have.
type codec struct {
	data    []byte // written so far, or left to read
	reading bool
	broken  bool // read past the end, or nonsense
}

func (c *codec) plan(p *plan) {
	c.list(&p.Argv)
	c.list(&p.Env)
	c.text(&p.Dir)
	c.mode(&p.Umask)
	each(c, &p.Limits, func(l *spec.Limit) {
		c.text(&l.Resource)
		c.number(&l.Soft)
		c.number(&l.Hard)
	})
	c.list(&p.FDNames)
	c.integer(&p.Sockets)
	c.integer((*int)(&p.Handed))
	c.flag(&p.Bare)
	c.flag(&p.Engine)
}

func (c *codec) number(v *uint64) {
	if !c.reading {
		c.data = binary.AppendUvarint(c.data, *v)
		return
	}
	value, n := binary.Uvarint(c.data)
	if n <= 0 {
		c.broken, c.data = true, nil
		return
	}
	*v, c.data = value, c.data[n:]
}

// integer may be negative: its two's complement.
func (c *codec) integer(v *int) {
	value := uint64(*v)
	c.number(&value)
	*v = int(value)
}

func (c *codec) mode(v *fs.FileMode) {
	value := uint64(*v)
	c.number(&value)
	*v = fs.FileMode(value)
}

func (c *codec) flag(v *bool) {
	var value uint64
	if *v {
		value = 1
	}
	c.number(&value)
	*v = value != 0
}

func (c *codec) text(v *string) {
	size := uint64(len(*v))
	c.number(&size)
	switch {
	case !c.reading:
		c.data = append(c.data, *v...)
	case size > uint64(len(c.data)):
		c.broken, c.data = true, nil
	default:
		*v, c.data = string(c.data[:size]), c.data[size:]
	}
}

func (c *codec) list(v *[]string) { each(c, v, c.text) }

// each is a slice: nil stays nil.
func each[T any](c *codec, v *[]T, item func(*T)) {
	present := *v != nil
	if c.flag(&present); !present {
		return
	}
	size := uint64(len(*v))
	c.number(&size)
	if c.reading {
		if size > uint64(len(c.data)) { // every item has a byte
			c.broken, c.data = true, nil
			return
		}
		*v = make([]T, size)
	}
	for i := range *v {
		item(&(*v)[i])
	}
}
