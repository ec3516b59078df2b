package listen

import (
	"os"
	"slices"
	"testing"

	"activator/internal/kernel/sockopt"
	"activator/internal/seal/udprelay"
	"activator/internal/spec"
)

// makers make plain sockets and note what was asked for.
type makers struct {
	asked   [][]spec.Kind
	cookies []uint64
	admits  int
	fail    error

	released []uint64
}

func (m *makers) means(t *testing.T) Means {
	return Means{Restrictions: map[spec.Seal]Restriction{spec.ReplyOnly: making{m, t}}}
}

// making is a [Restriction] of makers.
type making struct {
	*makers
	t *testing.T
}

func (m making) MakeSockets(kinds []spec.Kind) ([]*os.File, error) {
	m.asked = append(m.asked, slices.Clone(kinds))
	if m.fail != nil {
		return nil, m.fail
	}
	files, err := Plain{}.MakeSockets(kinds)
	for _, f := range files {
		m.cookies = append(m.cookies, cookie(m.t, f))
	}
	return files, err
}

func (m making) OpenRelaySocket(*os.File, spec.Socket, *udprelay.Undelivered) (RelaySocket, error) {
	return nil, nil
}

func (m making) Admit(*os.File) error {
	m.admits++
	return m.fail
}

func (m making) Admits() bool { return true }

func (m making) Password() (none sockopt.Password) { return none }

func (m making) ReleaseSocket(f *os.File) { m.released = append(m.released, cookie(m.t, f)) }

// few makes one less than it was asked for.
type few struct{ making }

func (f few) MakeSockets(kinds []spec.Kind) ([]*os.File, error) {
	return f.making.MakeSockets(kinds[:len(kinds)-1])
}
