package program

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// search is what env(1) looks for on a script's behalf: a program, in the PATH of env.
type search struct {
	name string
	env  []string
}

// searchOf is what the first line of a script has env(1) look for; its name is "" where that
// is nothing, or cannot be told. The kernel gives an interpreter all that stands behind it
// as one argument: cure is what to write where more was meant.
func searchOf(interpreter string, head []byte, env []string) (s search, cure string) {
	line, _, whole := bytes.Cut(head, []byte("\n"))
	_, argument, found := strings.Cut(string(line), interpreter)
	if argument = strings.Trim(argument, " \t"); filepath.Base(interpreter) != "env" || !found || !whole || argument == "" {
		return search{}, ""
	}
	words := strings.Fields(argument)
	switch {
	case strings.HasPrefix(argument, "-S"):
		return splitSearch(strings.Fields(argument[2:]), env), ""
	case strings.Contains(argument, "="):
		return search{}, ""
	case argument[0] == '-':
		if len(words) == 1 || strings.Trim(words[0], "-i0v") != "" || words[0] == "-" {
			return search{}, ""
		}
		cure = "-S " + argument
	case strings.ContainsAny(argument, " \t"):
		cure = "-S " + argument
	}
	if cure != "" {
		cure = "write #!" + interpreter + " " + cure
	}
	return search{argument, env}, cure
}

// splitSearch is the search of `env -S`, which splits its argument as a shell would.
func splitSearch(words, env []string) search {
	if strings.ContainsAny(strings.Join(words, " "), "$\\\"'#") {
		return search{}
	}
	env = slices.Clone(env)
	for i, word := range words {
		switch {
		case word == "-" || word == "-i" || word == "--ignore-environment":
			env = []string{"PATH=/bin:/usr/bin"} // what execvp(3) takes then
		case word[0] == '-':
			return search{}
		case strings.Contains(word, "="):
			env = append(env, word)
		default:
			return search{words[i], env}
		}
	}
	return search{}
}

// missingSearch says that env will not find a program, and what helps.
func (r Root) missingSearch(s search, script, write string) (reason, cure string) {
	name := s.name
	switch {
	case strings.HasSuffix(name, "\r"):
		return fmt.Sprintf("its interpreter %q is not found: the file has Windows line ends", name), "sed -i 's/\\r$//' " + script + " takes them away"
	case write != "":
		return fmt.Sprintf("env gets one argument, %q, and finds nothing of that name", name), write
	case slices.ContainsFunc(ListCandidates(name, s.env), r.onHost):
		return "its interpreter " + name + " is not found inside in PATH=" + pathOf(s.env), "mount it with read_only"
	}
	return "its interpreter " + name + " is not found in PATH=" + pathOf(s.env) + ", neither inside nor on the host", "install it"
}
