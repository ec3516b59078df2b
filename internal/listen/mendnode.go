package listen

import (
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/sys/unix"
)

// MendNode puts the node and its symlinks back: see mendNode and mendLinks.
func (s *Socket) MendNode() (what string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return "", wrapError(s.spec.Address, "", errClosed, "")
	}
	if s.node == nil || s.file == nil {
		return "", nil
	}
	what, err = s.mendNode()
	linked, failed := s.mendLinks()
	if what != "" && linked != "" {
		what += "; "
	}
	return what + linked, errors.Join(err, failed)
}

// mendNode puts the node back when it was deleted or replaced: as a link to
// the reserve, the very same socket with its queue, or bound anew where the reserve
// is gone too (see [Socket.Generation]). It returns what it found and did, for
// the log; "" when the node is in its place. What stands there now and is not a
// dead socket is never removed: that is an *OccupiedError, and once it goes the
// watcher tells.
func (s *Socket) mendNode() (what string, err error) {
	for range mostChanges {
		if s.nodeInPlace() {
			s.interest.rewatchNode(s.node, true)
			if s.nodeInPlace() {
				break // else it went before its folders were watched
			}
		}
		// Watch what is there first: if it cannot be mended now, the next change of
		// it is not missed.
		s.interest.rewatchNode(s.node, false)
		if what, err = s.restoreNode(); err != nil {
			break
		}
	}
	return what, wrapError(s.spec.Address, "", err, "")
}

// MendNodeAndLog is [Socket.MendNode] that logs what it does. An error is logged once, until there
// is another one or the node is in its place again.
func (s *Socket) MendNodeAndLog(log *slog.Logger) {
	what, err := s.MendNode()
	text := ""
	if err != nil {
		text = err.Error()
	}
	s.mu.Lock()
	told := s.nodeError == text
	s.nodeError = text
	s.mu.Unlock()
	switch {
	case err != nil && !told:
		log.Error("node not healed", "socket", s.String(), "err", err)
	case err == nil && what != "":
		log.Warn("node healed", "socket", s.String(), "was", what)
	}
}

// nodeInPlace reports whether the node stands at its path, and makes a reserve that is missing.
func (s *Socket) nodeInPlace() (there bool) {
	s.node.withPlace(func(at place) {
		there = at.hasInode(at.Name, s.node.id)
		if there && s.node.made && !at.hasInode(at.reserveName(), s.node.id) {
			s.node.makeReserve(at)
		}
	})
	return there
}

func (s *Socket) restoreNode() (string, error) {
	path := s.node.path
	found := fmt.Sprintf("%s was deleted", path)
	linked, err := false, error(nil)
	withoutUmask(func() {
		var at place
		if at, err = makePlace(path, &s.spec.Options); err != nil {
			return
		}
		defer at.Close()
		if _, err := at.inodeOf(at.Name); err == nil {
			found = fmt.Sprintf("%s was replaced", path)
		}
		linked, err = s.linkBack(at)
	})
	if err != nil {
		return found, err
	}
	if linked {
		return found + "; linked back, the queue is kept", nil
	}
	before := s.node
	if !before.fifo {
		before.removeReserve() // it could not be linked, and looks alive to openSpec
	}
	made, err := s.openAgain(nil)
	if err != nil {
		return found, err
	}
	before.removeReserve()
	if err := s.replaceFile(made); err != nil {
		return found, err
	}
	return found + "; bound anew; clients in the old queue, and programs with the old socket, are cut off", nil
}

// linkBack makes the node from the reserve, unless something stands there.
func (s *Socket) linkBack(at place) (linked bool, err error) {
	defer at.lockFolder(s.means.Warn)()
	if at.hasInode(at.Name, s.node.id) {
		return true, nil // its folder was away, and is back
	}
	if !s.node.fifo {
		if err := at.clearStale(at.Name); err != nil {
			return false, err
		}
	}
	if !at.hasInode(at.reserveName(), s.node.id) {
		return false, nil
	}
	err = at.linkName(at.reserveName(), at.Name)
	if err == unix.EEXIST && !s.node.fifo {
		return false, &OccupiedError{Path: at.path, What: "something that has just come"}
	}
	return err == nil && at.hasInode(at.Name, s.node.id), nil
}
