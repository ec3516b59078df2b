package listen

import (
	"errors"
	"fmt"
	"io/fs"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

// owner is the user and the group that a node shall belong to; -1 leaves it.
type owner struct{ uid, gid int }

func (w owner) isGiven() bool { return w.uid >= 0 || w.gid >= 0 }

func lookupOwner(o *spec.Options) (w owner, err error) {
	w = owner{-1, -1}
	if w.uid, err = lookupID(o.SocketUser, userID); err != nil {
		return w, fmt.Errorf("socket_user: %w", err)
	}
	if w.gid, err = lookupID(o.SocketGroup, groupID); err != nil {
		return w, fmt.Errorf("socket_group: %w", err)
	}
	return w, nil
}

// lookupID returns the number of a user or a group, -1 for no name.
func lookupID(name string, lookup func(string) (string, error)) (int, error) {
	if name == "" {
		return -1, nil
	}
	id, err := strconv.ParseUint(name, 10, 31)
	if err == nil {
		return int(id), nil
	}
	text, err := lookup(name)
	if err != nil {
		return -1, err
	}
	return strconv.Atoi(text)
}

func userID(name string) (string, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return "", err
	}
	return u.Uid, nil
}

func groupID(name string) (string, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return "", err
	}
	return g.Gid, nil
}

func nodeMode(o *spec.Options) fs.FileMode {
	if o.SocketModeSet {
		return o.SocketMode.Perm()
	}
	return 0o666
}

func ownerCure(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) && path.Op == "chown" && errors.Is(err, unix.EPERM) {
		return "giving a node away needs CAP_CHOWN; a group you are a member of does not"
	}
	return ""
}
