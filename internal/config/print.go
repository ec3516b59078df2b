package config

import (
	"fmt"

	"activator/internal/spec"
)

// AppendTOML appends the effective configuration to b, as TOML: every key that
// has a meaning, the defaults too. What holds without a key and cannot be
// written is a comment. [Load] reads the same service from it.
func AppendTOML(b []byte, s spec.Service) []byte {
	for _, socket := range s.Sockets {
		g := group{listen: []place{{Address: socket.Address}}, Socket: socket}
		b = appendSection(b, "[[socket]]", socketKeys(), &g)
	}
	b = appendSection(b, "[service]", serviceKeys(), &s)
	b = appendSection(b, "[sandbox]", sandboxKeys(), &s)
	if s.Container != nil {
		b = appendSection(b, "[container]", containerKeys(), &s)
	}
	return b
}

func appendSection[S any](b []byte, header string, keys []field[S], s *S) []byte {
	if len(b) > 0 {
		b = append(b, '\n')
	}
	b = append(b, header+"\n"...)
	for i := range keys {
		f := &keys[i]
		switch {
		case f.explainIdle(s) != "":
		case f.isAbsent(s):
			b = fmt.Appendf(b, "# %s: %s\n", f.key, f.unset)
		default:
			b = fmt.Appendf(b, "%s = %s\n", f.key, f.print(s))
		}
	}
	return b
}
