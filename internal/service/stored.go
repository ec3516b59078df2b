package service

import (
	"activator/internal/fdstore"
	"activator/internal/listen"
	"activator/internal/notify"
	"activator/internal/process"
)

// What an instance leaves for the next one, file_descriptor_store_max, is the service's until that ends or is
// changed by a reload. A stored connection is a client like any other: it starts the next instance.

// findClient returns the socket to which a connection came; nil: none of ours.
func (s *Service) findClient(inode uint64) *listen.Socket {
	for _, socket := range s.sockets {
		if socket.HasConnection(inode) {
			return socket
		}
	}
	return nil
}

// noteStored says that there is a client, if one is stored. It is called where the queues are looked at.
func (s *Service) noteStored() {
	for _, inode := range s.store.Clients() {
		if socket := s.findClient(inode); socket != nil {
			s.noteClient(socket)
			return
		}
	}
}

// lendStored returns what an instance is given of the store. The caller closes it by [fdstore.CloseAll].
func (s *Service) lendStored() (process.Stored, error) {
	fds, names, err := s.store.Copy()
	return process.Stored{FDs: fds, Names: names}, err
}

// keepFiles carries out what a message says of the store. It takes fds, which came with it.
func (s *Service) keepFiles(pid int, m notify.Message, fds []int) {
	name := m.FDName
	if m.Remove && name != "" {
		s.log.Debug("descriptors not kept any more", "pid", pid, "name", name, "descriptors", s.store.Remove(name))
	}
	if !m.Store {
		fdstore.CloseAll(fds)
		return
	}
	if name == "" {
		name = fdstore.DefaultName
	}
	for _, number := range fds {
		if err := s.store.Add(number, name, !m.KeepFDs); err != nil {
			s.log.Warn("descriptor not kept for the next instance", "pid", pid, "name", name, "err", err)
		}
	}
}

func (s *Service) closeStore() {
	if n := s.store.Close(); n > 0 {
		s.log.Info("stored descriptors closed", "descriptors", n)
	}
}
