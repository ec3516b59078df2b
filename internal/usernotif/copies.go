package usernotif

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/behalf"
	"activator/internal/kernel/fd"
	"activator/internal/kernel/proc"
)

// A program that binds gets another file at its number. What else of the program is about the old file is not about
// the new one: copies of the descriptor (dup(2)), and entries of its epolls, which vanish with the old file.

// uses is what else a thread's table has of a socket.
type uses struct {
	copies []int // other numbers of it
	epolls []watching
}

// watching is the entries of one epoll that are about the socket.
type watching struct {
	number  int // of the epoll
	watches []proc.Watch
}

// What the program has may cost much to look through, so there are bounds. Programs that need more of that get a warning.
const (
	mostScans       = 64   // tables of one run
	mostDescriptors = 4096 // of one table
	mostEpolls      = 64   // in it
	mostUses        = 64   // copies of one socket, and entries of epolls
	highestNumber   = 1 << 16
	mostReplaced    = 64 // sockets that are remembered
	mostProcesses   = 32 // that are looked at when a target is served
)

var errManyUses = errors.New("it has too many descriptors, or epolls")

// findUses looks for them in the table of the thread that calls. fd is our copy of the socket: another thread may
// have put a third one at the number meanwhile, which is not what is exchanged.
func (s *Supervisor) findUses(thread uint32, number, fd int) (u uses, err error) {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return u, os.NewSyscallError("fstat", err)
	}
	if s.scans++; s.scans > mostScans {
		return u, errManyUses
	}
	links, epolls, err := readTable(thread)
	if err != nil {
		return u, err
	}
	socket, count := fmt.Sprintf("socket:[%d]", stat.Ino), 0
	for n, link := range links {
		if link == socket && n != number {
			u.copies = append(u.copies, n)
		}
	}
	for _, n := range epolls {
		w := watching{number: n}
		for _, watch := range proc.ListWatches(int(thread), n) {
			if links[watch.Number] == socket && watch.Number < highestNumber {
				w.watches = append(w.watches, watch)
			}
		}
		if count += len(w.watches); len(w.watches) > 0 {
			u.epolls = append(u.epolls, w)
		}
	}
	if max(count, len(u.copies)) > mostUses {
		return uses{}, errManyUses
	}
	return u, nil
}

// readTable reads what the descriptors of a thread are of, and which of them are epolls.
func readTable(thread uint32) (links map[int]string, epolls []int, err error) {
	folder, err := os.Open(fmt.Sprintf("/proc/%d/fd", thread))
	if err != nil {
		return nil, nil, err
	}
	defer folder.Close()
	names, err := folder.Readdirnames(mostDescriptors + 1)
	if err != nil || len(names) > mostDescriptors {
		return nil, nil, cmp.Or(err, errManyUses)
	}
	links = make(map[int]string, len(names))
	for _, name := range names {
		n, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		links[n], _ = os.Readlink(filepath.Join(folder.Name(), name))
		if links[n] == "anon_inode:[eventpoll]" {
			epolls = append(epolls, n)
		}
	}
	if len(epolls) > mostEpolls {
		return nil, nil, errManyUses
	}
	return links, epolls, nil
}

// follow has them be about target i too. r.fd still is the old socket.
func (s *Supervisor) follow(r *request, u uses, i int) error {
	for _, number := range u.copies {
		if err := s.putAt(r, i, number); err != nil {
			return err
		}
	}
	var watches []behalf.Watch
	for _, w := range u.epolls {
		epoll, err := takeDescriptor(r.PID, w.number)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(epoll) }()
		for _, watch := range w.watches {
			watches = append(watches, behalf.Watch{Epoll: epoll, Watch: watch})
		}
	}
	if len(watches) == 0 || !s.isValid(r.ID) { // else the epolls may be another process's
		return nil
	}
	return fd.Control(s.targets[i].File, func(ours int) error { return behalf.Rewatch(r.fd, ours, watches) })
}

// putAt puts target i's socket at a number of the caller's.
func (s *Supervisor) putAt(r *request, i, number int) error {
	add := addition{ID: r.ID, Flags: unix.SECCOMP_ADDFD_FLAG_SETFD, Target: uint32(number)}
	if isCloseOnExec(r.PID, number) {
		add.FileFlag = unix.O_CLOEXEC
	}
	return fd.Control(s.targets[i].File, func(ours int) error {
		add.Source = uint32(ours)
		return s.addFD(&add)
	})
}

// Copies in other processes stay the old socket: the kernel puts a descriptor only into the table of the thread that asks.
// So a process that listens at its copy gets ours then, and one that only accepts by it is a warning.

// noteReplaced remembers the socket that is our copy fd, in whose place the service gets target i.
func (s *Supervisor) noteReplaced(fd, i int) {
	var stat unix.Stat_t
	if len(s.replaced) < mostReplaced && unix.Fstat(fd, &stat) == nil {
		s.replaced[stat.Ino] = i
	}
}

// findReplaced returns the target that another process got in place of the socket that fd is a copy of, while that has no
// address of its own; -1: none.
func (s *Supervisor) findReplaced(fd int) int {
	var stat unix.Stat_t
	if len(s.replaced) == 0 || unix.Fstat(fd, &stat) != nil {
		return -1
	}
	if i, ok := s.replaced[stat.Ino]; ok && !isBound(fd) {
		return i
	}
	return -1
}

// warnOfOthers tells of another process than the caller's that has a socket in whose place the service got target i.
func (s *Supervisor) warnOfOthers(r *request, i int) {
	own, err := processOf(r.PID)
	if err != nil || s.policy.Warn == nil || s.warnedUses {
		return
	}
	for _, pid := range proc.ListFamily(own, mostProcesses) {
		if pid == own {
			continue
		}
		if s.scans++; s.scans > mostScans {
			return
		}
		if links, _, err := readTable(uint32(pid)); err == nil && s.hasReplaced(links, i) {
			s.warnUses(fmt.Sprintf("has a copy of the socket that it binds to %s in another process, since before the bind, by which no client comes", s.targets[i].Address))
			return
		}
	}
}

// hasReplaced reports whether one of the descriptors of a table is of such a socket.
func (s *Supervisor) hasReplaced(links map[int]string, i int) bool {
	old := make(map[string]bool)
	for inode, target := range s.replaced {
		old[fmt.Sprintf("socket:[%d]", inode)] = target == i
	}
	for _, link := range links {
		if old[link] {
			return true
		}
	}
	return false
}

// warnUses tells, once, of what the service has of its old socket.
func (s *Supervisor) warnUses(text string) {
	if s.policy.Warn != nil && !s.warnedUses {
		s.warnedUses = true
		s.policy.Warn(text + ": if it serves no client, write handover = \"proxy\" below [service]")
	}
}
