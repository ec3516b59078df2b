package listen

import (
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Connection is one client's connection. It owns the descriptor.
type Connection struct {
	File *os.File // blocking, or as non_blocking says
	Peer Peer
}

// Peer is the other end of a connection.
type Peer struct {
	// Source is what several connections of one client have in common: the v4
	// address, the /64 of a v6 one, the user id of a unix socket's peer, the CID
	// of a virtual machine. "": unknown.
	Source string
	Addr   string // REMOTE_ADDR: the address, the path of a unix socket, "vsock:CID"; "": none
	Port   string // REMOTE_PORT; "": none
}

// Key is what [Socket.Silences] calls the connection: the kernel's table has no zones.
func (p Peer) Key() string {
	address, _, _ := strings.Cut(p.Addr, "%")
	return address + " " + p.Port
}

// Accept takes the connection off the queue that has waited longest, and returns
// it; the caller closes it. nil: no client waits. Only while no process has the
// socket: it sets O_NONBLOCK.
func (s *Socket) Accept() (*Connection, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.checkOpen(); err != nil {
		return nil, err
	}
	if err := s.setFlags(true); err != nil {
		return nil, err
	}
	flags := unix.SOCK_CLOEXEC
	if s.spec.Options.NonBlocking {
		flags |= unix.SOCK_NONBLOCK
	}
	conn := -1
	var peer Peer
	_, err := s.refuseAll("accept", 1, func(fd int) error {
		got, address, err := unix.Accept4(fd, flags)
		if err == nil {
			conn, peer = got, peerOf(got, address)
		}
		return err
	})
	if err != nil || conn < 0 {
		return nil, err
	}
	return &Connection{File: os.NewFile(uintptr(conn), s.spec.Address.String()), Peer: peer}, nil
}

func peerOf(fd int, address unix.Sockaddr) Peer {
	switch a := address.(type) {
	case *unix.SockaddrInet4:
		return peerAt(netip.AddrFrom4(a.Addr), a.Port)
	case *unix.SockaddrInet6:
		addr := netip.AddrFrom16(a.Addr)
		if a.ZoneId != 0 && addr.IsLinkLocalUnicast() {
			addr = addr.WithZone(strconv.Itoa(int(a.ZoneId)))
		}
		return peerAt(addr, a.Port)
	case *unix.SockaddrVM:
		cid := strconv.FormatUint(uint64(a.CID), 10)
		return Peer{Source: "vsock:" + cid, Addr: "vsock:" + cid, Port: strconv.FormatUint(uint64(a.Port), 10)}
	}
	var p Peer
	if a, ok := address.(*unix.SockaddrUnix); ok && a.Name != "@" { // which is none
		p.Addr = a.Name
	}
	if cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
		p.Source = "uid:" + strconv.FormatUint(uint64(cred.Uid), 10)
	}
	return p
}

// peerAt writes a v4 address that came over a v6 socket as what it is. A host has
// a /64 of v6 to choose addresses from.
func peerAt(addr netip.Addr, port int) Peer {
	addr = addr.Unmap()
	source := addr.String()
	if addr.Is6() {
		prefix, _ := addr.WithZone("").Prefix(64)
		source = prefix.String()
	}
	return Peer{Source: source, Addr: addr.String(), Port: strconv.Itoa(port)}
}
