package listen

import (
	"errors"
	"os"
	"strings"

	"activator/internal/spec"

	"golang.org/x/sys/unix"
)

// makeLinks makes the symlinks of spec. One that points to our path already, or
// nowhere, is taken over; nothing else is removed.
func makeLinks(want spec.Socket) ([]string, error) {
	path := want.Address.Node()
	if path == "" {
		return nil, nil
	}
	var made []string
	for _, link := range want.Options.Symlinks {
		err := makeLink(path, link, &want.Options)
		if err != nil {
			removeLinks(want, made)
			return nil, wrapError(want.Address, "symlinks", err, "")
		}
		made = append(made, link)
	}
	return made, nil
}

func makeLink(path, link string, o *spec.Options) error {
	at, err := makePlace(link, o)
	if err != nil {
		return err
	}
	defer at.Close()
	put := func() error {
		err := unix.Symlinkat(path, at.FD(), at.Name)
		if err != nil {
			return &os.LinkError{Op: "symlink", Old: path, New: link, Err: err}
		}
		return nil
	}
	if err = put(); !os.IsExist(err) {
		return err
	}
	st, err := at.Stat(at.Name)
	if err != nil {
		return &os.PathError{Op: "stat", Path: link, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return &OccupiedError{Path: link, What: at.describeFile(at.Name, &st)}
	}
	if at.pointsAt(path) {
		return nil
	}
	if at.linkLeads(at.Name) {
		return &OccupiedError{Path: link, What: at.describeFile(at.Name, &st)}
	}
	if err := at.removeName(at.Name); err != nil {
		return &os.PathError{Op: "remove", Path: link, Err: err}
	}
	return put()
}

// linkLeads reports whether a link leads anywhere, which is only asked.
func (s place) linkLeads(name string) bool {
	var end unix.Stat_t
	return unix.Fstatat(s.FD(), name, &end, 0) != unix.ENOENT
}

// mendLinks puts back the symlinks that were deleted; what stands in the place of one is an *OccupiedError.
// It returns what it found and did, for the log.
func (s *Socket) mendLinks() (what string, err error) {
	path := s.spec.Address.Node()
	var found []string
	for _, link := range s.links {
		if linkPointsAt(link, path) {
			continue
		}
		var failed error
		withoutUmask(func() { failed = makeLink(path, link, &s.spec.Options) })
		if failed == nil {
			found = append(found, link+" was deleted; linked again")
		}
		err = errors.Join(err, wrapError(s.spec.Address, "symlinks", failed, ""))
	}
	if len(found) > 0 {
		s.interest.rewatchNode(s.node, true)
	}
	return strings.Join(found, "; "), err
}

func linkPointsAt(link, path string) bool {
	at, err := openPlace(link)
	if err != nil {
		return false
	}
	defer at.Close()
	return at.pointsAt(path)
}

// pointsAt reports whether a symlink to path stands there.
func (s place) pointsAt(path string) bool {
	target, err := s.ReadLink(s.Name)
	return err == nil && target == path
}

func removeLinks(want spec.Socket, links []string) {
	for _, link := range links {
		at, err := openPlace(link)
		if err != nil {
			continue
		}
		if at.pointsAt(want.Address.Node()) {
			_ = at.removeName(at.Name)
		}
		at.Close()
	}
}
