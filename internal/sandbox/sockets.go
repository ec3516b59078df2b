package sandbox

import (
	"io/fs"
	"path/filepath"

	"activator/internal/spec"
)

// mostLooked bounds the search for sockets: a mount may hold millions of files.
const mostLooked = 20_000

// FindSocket returns the path of a unix socket in what a sandbox mounts of the host's, "" where
// there is none among the first files. Whatever connect says, a datagram reaches such a socket: its
// path is behind a pointer, where no filter sees it, and a socket of one's own needs no connect(2).
func FindSocket(s spec.Sandbox) (found string) {
	left := mostLooked
	for _, mounts := range [][]spec.Mount{s.ReadOnly, s.Writable, {{Host: s.Root}}} {
		for _, m := range mounts {
			if m.Host == "" || found != "" {
				continue
			}
			_ = filepath.WalkDir(m.Host, func(path string, e fs.DirEntry, err error) error {
				if left--; left < 0 {
					return fs.SkipAll
				}
				if err == nil && e.Type()&fs.ModeSocket != 0 {
					found = path
					return fs.SkipAll
				}
				return nil // what we may not read the service may not either, or it is empty
			})
		}
	}
	return found
}
