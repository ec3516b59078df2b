package process

import (
	"encoding/binary"
	"io"
	"io/fs"
	"syscall"
	"time"

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

func (c *codec) codePlan(p *plan) {
	c.codeTexts(&p.Argv)
	c.codeTexts(&p.Env)
	c.codeText(&p.Dir)
	c.codeMode(&p.Umask)
	codeList(c, &p.Limits, func(l *spec.Limit) {
		c.codeText(&l.Resource)
		c.codeNumber(&l.Soft)
		c.codeNumber(&l.Hard)
	})
	c.codeTexts(&p.FDNames)
	c.codeInt(&p.Sockets)
	c.codeInt((*int)(&p.Handed))
	c.codeBool(&p.Bare)
	c.codeBool(&p.Engine)
	c.codeDuration(&p.Watchdog)
}

func (c *codec) codeNumber(v *uint64) {
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

// codeInt may be negative: its two's complement.
func (c *codec) codeInt(v *int) {
	value := uint64(*v)
	c.codeNumber(&value)
	*v = int(value)
}

func (c *codec) codeMode(v *fs.FileMode) {
	value := uint64(*v)
	c.codeNumber(&value)
	*v = fs.FileMode(value)
}

func (c *codec) codeDuration(v *time.Duration) {
	value := uint64(*v)
	c.codeNumber(&value)
	*v = time.Duration(value)
}

func (c *codec) codeBool(v *bool) {
	var value uint64
	if *v {
		value = 1
	}
	c.codeNumber(&value)
	*v = value != 0
}

func (c *codec) codeText(v *string) {
	size := uint64(len(*v))
	c.codeNumber(&size)
	switch {
	case !c.reading:
		c.data = append(c.data, *v...)
	case size > uint64(len(c.data)):
		c.broken, c.data = true, nil
	default:
		*v, c.data = string(c.data[:size]), c.data[size:]
	}
}

func (c *codec) codeTexts(v *[]string) { codeList(c, v, c.codeText) }

// codeList is a slice: nil stays nil.
func codeList[T any](c *codec, v *[]T, item func(*T)) {
	present := *v != nil
	if c.codeBool(&present); !present {
		return
	}
	size := uint64(len(*v))
	c.codeNumber(&size)
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

func writePlan(w io.Writer, p *plan) error {
	c := codec{data: make([]byte, 4, 4096)}
	c.codePlan(p)
	binary.LittleEndian.PutUint32(c.data, uint32(len(c.data)-4))
	_, err := w.Write(c.data)
	return err
}

func readPlan(r io.Reader) (*plan, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	c := codec{reading: true, data: make([]byte, binary.LittleEndian.Uint32(size[:]))}
	if _, err := io.ReadFull(r, c.data); err != nil {
		return nil, err
	}
	p := new(plan)
	if c.codePlan(p); c.broken || len(c.data) > 0 {
		return nil, &StepError{Step: "plan", Errno: syscall.EBADMSG, Cure: "is the activator's binary being replaced?"}
	}
	return p, nil
}
