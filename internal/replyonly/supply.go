package replyonly

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// maxTables is how many sockets can have one at a time.
	maxTables = 1 << 14
	// ready is how many empty tables wait for a socket.
	ready = 4
)

// supply keeps empty tables ready and clears those that are given back. Both take
// the kernel a grace period of RCU, some ten milliseconds (maybe_wait_bpf_programs
// in kernel/bpf/syscall.c), which no client should wait for. One goroutine owns
// the array of tables.
type supply struct {
	rooms *os.File // lent by Programs, until close
	peers uint32
	next  uint32 // numbers from here on were never used; the goroutine's
	free  []uint32

	tables chan table
	wake   chan struct{}
	quit   chan struct{}
	done   chan struct{}

	mu       sync.Mutex
	released []uint32
}

// table is the number of one, or why there is none.
type table struct {
	slot uint32
	err  error
}

func newSupply(rooms *os.File, peers uint32) *supply {
	s := &supply{rooms: rooms, peers: peers, tables: make(chan table, ready-1),
		wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{})}
	go s.run()
	return s
}

func (s *supply) close() {
	close(s.quit)
	<-s.done
}

func (s *supply) run() {
	defer close(s.done)
	for {
		t := s.make()
		for handed := false; !handed; {
			select {
			case s.tables <- t:
				handed = true
			case <-s.wake:
				s.clear()
			case <-s.quit:
				return
			}
		}
	}
}

// take returns the number of an empty table. An error may be an old one, made
// before others gave tables back: it counts when there are only errors.
func (s *supply) take() (slot uint32, err error) {
	for range ready + 1 {
		t := <-s.tables
		if t.err == nil {
			return t.slot, nil
		}
		err = t.err
	}
	return 0, err
}

// release takes a table back.
func (s *supply) release(slot uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.released = append(s.released, slot)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// make makes a table under a number that is not in use.
func (s *supply) make() table {
	s.clear()
	var slot uint32
	switch {
	case len(s.free) > 0:
		slot = s.free[len(s.free)-1]
		s.free = s.free[:len(s.free)-1]
	case s.next < maxTables:
		slot = s.next
		s.next++
	default:
		return table{err: fmt.Errorf("all %d are in use: %w", maxTables, unix.ENOSPC)}
	}
	if err := s.fill(slot); err != nil {
		s.free = append(s.free, slot)
		return table{err: err}
	}
	return table{slot: slot}
}

func (s *supply) fill(slot uint32) error {
	made, err := createTable(s.peers)
	if err != nil {
		return err
	}
	defer func() { _ = made.Close() }()
	_, err = withFD(s.rooms, func(rooms int) (int, error) {
		return withFD(made, func(fd int) (int, error) { return 0, set(rooms, slot, uint32(fd)) })
	})
	return err
}

// clear frees the memory of the tables that were given back, and their numbers.
func (s *supply) clear() {
	s.mu.Lock()
	released := s.released
	s.released = nil
	s.mu.Unlock()
	for _, slot := range released {
		_, err := withFD(s.rooms, func(rooms int) (int, error) { return 0, remove(rooms, slot) })
		if err == nil {
			s.free = append(s.free, slot)
		} // else the number is lost, the array has others
	}
}

// createTable makes the table of one socket. It has all its memory from the
// start, as every map that forgets who was not seen for longest.
func createTable(peers uint32) (*os.File, error) {
	return createMap(mapSpec{kind: unix.BPF_MAP_TYPE_LRU_HASH, key: peerSize, value: 8, entries: peers})
}
