package config

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

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

// AppendChanged appends to b what of the configuration is not the default, as TOML that gives the same service. why returns
// comments for a key, such as "sandbox.connect", or "socket.target tcp://:80" for the target of that address.
func AppendChanged(b []byte, s spec.Service, why func(key string) []string) []byte {
	for _, socket := range s.Sockets {
		if len(b) > 0 {
			b = append(b, '\n')
		}
		b = appendSocket(b, s, socket, why)
	}
	b = appendChanged(b, "[service]", "service.", serviceKeys(), &s, why)
	return appendChanged(b, "[sandbox]", "sandbox.", sandboxKeys(), &s, why)
}

// appendSocket appends one address of a service.
func appendSocket(b []byte, s spec.Service, socket spec.Socket, why func(key string) []string) []byte {
	g := group{listen: []place{{Address: socket.Address}}, Socket: socket}
	if g.Name == s.Name {
		g.Name = ""
	}
	if !s.Inherits() && g.Target == g.Address {
		g.Target = spec.Address{}
	}
	keys := slices.Clone(socketKeys())
	for i := range keys {
		if keys[i].key == "pass_rights" { // its default is the seal's, see readSockets
			keys[i].normal = func(g *group) bool { return g.Options.RefuseRights == (s.Seal != "off") }
		}
	}
	return append(b, appendChanged(nil, "[[socket]]", "socket.", keys, &g, explainSocket(why, socket))...)
}

// explainSocket is why, with the comments for one socket: their key has its address, as in "socket.target tcp://:80".
func explainSocket(why func(key string) []string, socket spec.Socket) func(key string) []string {
	return func(key string) []string { return why(key + " " + socket.Address.String()) }
}

// AppendComments appends a line of comment for each text, whatever it has in it.
func AppendComments(b []byte, texts []string) []byte {
	for _, text := range texts {
		b = fmt.Appendf(b, "# %s\n", strings.Map(func(r rune) rune {
			if unicode.IsPrint(r) {
				return r
			}
			return unicode.ReplacementChar
		}, text))
	}
	return b
}

func appendChanged[S any](b []byte, header, section string, keys []field[S], s *S, why func(key string) []string) []byte {
	var lines []byte
	for i := range keys {
		f := &keys[i]
		if f.explainIdle(s) != "" || f.isAbsent(s) || f.normal(s) {
			continue
		}
		lines = AppendComments(lines, why(section+f.key))
		lines = fmt.Appendf(lines, "%s = %s\n", f.key, f.print(s))
	}
	if len(lines) == 0 {
		return b
	}
	if len(b) > 0 {
		b = append(b, '\n')
	}
	return append(append(b, header+"\n"...), lines...)
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
