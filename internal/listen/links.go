package listen

import (
	"os"

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
	target, err := at.ReadLink(at.Name)
	if err == nil && target == path {
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

func removeLinks(want spec.Socket, links []string) {
	for _, link := range links {
		at, err := openPlace(link)
		if err != nil {
			continue
		}
		if target, err := at.ReadLink(at.Name); err == nil && target == want.Address.Node() {
			_ = at.removeName(at.Name)
		}
		at.Close()
	}
}
