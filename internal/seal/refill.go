package seal

import (
	"path/filepath"
	"strings"

	"activator/internal/sandbox"
	"activator/internal/spec"
)

func isFIFO(socket spec.Socket) bool { return socket.Address.Network == spec.FIFO }

// listRefilled says of which queues a service may write what its next run reads. A FIFO that is lent for
// reading can be opened again by its descriptor, where Landlock does not refuse it; and what lies in a
// folder that the service sees can be opened, or sent to, by its path.
func listRefilled(s *spec.Service, kernel sandbox.Kernel) (open []string) {
	writable := len(s.Sandbox.Writable) > 0 || len(s.Directories) > 0
	for _, socket := range s.Sockets {
		a := socket.Address
		switch {
		case a.Node() == "" || a.IsStream():
		case isInside(s, a.Node(), isFIFO(socket)):
			open = append(open, "its next run reads what it writes to "+a.String()+", which lies in a folder that it is shown")
		case !isFIFO(socket):
		case s.Container != nil:
			open = append(open, "its next run reads what it writes to "+a.String()+", by its descriptor (under Landlock's rules for files an engine cannot mount: EPERM)")
		case s.Sandbox.Syscalls == "any":
			open = append(open, "its next run reads what it writes to "+a.String()+", by its descriptor (syscalls = \"any\" goes without Landlock's rules for files)")
		case !kernel.Files(writable):
			open = append(open, "its next run reads what it writes to "+a.String()+", by its descriptor ("+kernel.WithoutFiles()+")")
		}
	}
	return open
}

// isInside reports whether a service sees the folder of a path of the host's; written: and may write there.
// What is mounted read-only can be sent to. A folder of its own has its name in the path.
func isInside(s *spec.Service, path string, written bool) bool {
	mounts := s.Sandbox.Writable
	if !written {
		mounts = append(mounts[:len(mounts):len(mounts)], s.Sandbox.ReadOnly...)
	}
	for _, m := range mounts {
		if spec.IsBelow(path, m.Host) {
			return true
		}
	}
	for _, d := range s.Directories {
		if strings.Contains(filepath.Dir(path)+"/", "/"+d.Name+"/") {
			return true
		}
	}
	return s.Sandbox.Root != "" && spec.IsBelow(path, s.Sandbox.Root)
}
