package listen

import (
	"slices"

	"activator/internal/spec"
)

// MayOverlap reports whether two sockets may stand in each other's way: the same
// port of addresses that overlap, or a path that both make. It errs on the side
// of true.
func MayOverlap(s, other spec.Socket) bool {
	a, b := s.Address, other.Address
	switch {
	case a == b:
		return true
	case a.IsTCP() && b.IsTCP(), a.IsUDP() && b.IsUDP():
		return a.Port == b.Port && (!a.IP.IsValid() || !b.IP.IsValid() || a.IP == b.IP)
	case a.Network == spec.VSock && b.Network == spec.VSock:
		return a.Port == b.Port && (a.CID == spec.CIDAny || b.CID == spec.CIDAny)
	}
	for _, path := range pathsOf(s) {
		if slices.Contains(pathsOf(other), path) {
			return true
		}
	}
	return false
}

// MakesPath reports whether the socket, once it is open, has made what stands at path.
func MakesPath(s spec.Socket, path string) bool { return slices.Contains(pathsOf(s), path) }

// pathsOf are what the socket makes in the file system, but folders.
func pathsOf(s spec.Socket) []string {
	if s.Address.Node() == "" {
		return nil
	}
	return append([]string{s.Address.Node(), spec.ReservePath(s.Address.Node())}, s.Options.Symlinks...)
}
