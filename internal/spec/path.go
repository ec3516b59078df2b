package spec

import (
	"slices"
	"strings"
)

// IsBelow reports whether path is folder or lies in it. Both are absolute and clean.
func IsBelow(path, folder string) bool {
	rest, found := strings.CutPrefix(path, folder)
	return found && (rest == "" || rest[0] == '/' || folder == "/")
}

// ExplainParent says why a path cannot have ".." in it, and what to write instead; "" if it has none. The kernel follows
// the link before it goes up; a path that is cut as text goes up from the link.
func ExplainParent(path string) (text, cure string) {
	if !slices.Contains(strings.Split(path, "/"), "..") {
		return "", ""
	}
	return `".." in the path leads elsewhere when a folder is a link`, "write the path without it"
}
