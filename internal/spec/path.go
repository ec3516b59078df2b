package spec

import "strings"

// IsBelow reports whether path is folder or lies in it. Both are absolute and clean.
func IsBelow(path, folder string) bool {
	rest, found := strings.CutPrefix(path, folder)
	return found && (rest == "" || rest[0] == '/' || folder == "/")
}
