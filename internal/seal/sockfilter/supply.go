package sockfilter

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// maxTables is how many sockets can have one at a time.
	maxTables = 1 << 14
	// ready is how many empty tables wait for a socket.
	ready = 8
)

// supply keeps empty tables ready and clears those that are given back. Both take
// the kernel a grace period of RCU, some ten milliseconds (maybe_wait_bpf_programs()
// in kernel/bpf/syscall.c), which no client should wait for. One goroutine owns
// the numbers of the tables.
type supply struct {
	byNumber *os.File // lent by Programs, until close
	peers    uint32
	next     uint32   // numbers from here on were never used
	free     []uint32 // were, and are not now

	tables chan table    // room for all that are ready
	wake   chan struct{} // something was taken or given back
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

func newSupply(byNumber *os.File, peers uint32) *supply {
	s := &supply{byNumber: byNumber, peers: peers, tables: make(chan table, ready),
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
		s.clearTables()
		s.fillTables(ready - len(s.tables))
		select {
		case <-s.wake:
		case <-s.quit:
			return
		}
	}
}

// takeTable returns the number of an empty table. An error may be an old one, made
// before others gave tables back: it counts when there are only errors.
func (s *supply) takeTable() (slot uint32, err error) {
	for range ready + 1 {
		select {
		case t := <-s.tables:
			s.wakeMaker()
			if t.err == nil {
				return t.slot, nil
			}
			err = t.err
		case <-s.done:
			return 0, os.ErrClosed
		}
	}
	return 0, err
}

// wakeMaker makes the goroutine look at what there is to do.
func (s *supply) wakeMaker() {
	select {
	case s.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// releaseTable takes a table back.
func (s *supply) releaseTable(slot uint32) {
	s.mu.Lock()
	s.released = append(s.released, slot)
	s.mu.Unlock()
	s.wakeMaker()
}

// fillTables makes n tables at once: they wait for the same grace period.
func (s *supply) fillTables(n int) {
	var all sync.WaitGroup
	made := make([]table, n)
	for i := range made {
		if made[i].slot, made[i].err = s.takeNumber(); made[i].err == nil {
			all.Go(func() { made[i].err = s.putTable(made[i].slot) })
		}
	}
	all.Wait()
	for _, t := range made {
		if t.err != nil && !errors.Is(t.err, errNumbers) {
			s.free = append(s.free, t.slot)
		}
		s.tables <- t // there is room: only this goroutine sends
	}
}

// errNumbers says that every table there can be is in use.
var errNumbers = fmt.Errorf("all %d are in use: %w", maxTables, unix.ENOSPC)

// takeNumber returns one that is not in use.
func (s *supply) takeNumber() (slot uint32, err error) {
	switch {
	case len(s.free) > 0:
		slot = s.free[len(s.free)-1]
		s.free = s.free[:len(s.free)-1]
	case s.next < maxTables:
		slot = s.next
		s.next++
	default:
		return 0, errNumbers
	}
	return slot, nil
}

// putTable makes a table under a number.
func (s *supply) putTable(slot uint32) error {
	made, err := createTable(s.peers)
	if err != nil {
		return err
	}
	defer func() { _ = made.Close() }()
	_, err = withFD(s.byNumber, func(byNumber int) (int, error) {
		return withFD(made, func(fd int) (int, error) { return 0, setElement(byNumber, slot, uint32(fd)) })
	})
	return err
}

// clearTables frees the memory of the tables that were given back, and their numbers.
func (s *supply) clearTables() {
	s.mu.Lock()
	released := s.released
	s.released = nil
	s.mu.Unlock()
	for some := range slices.Chunk(released, ready) { // so many threads at a time
		var all sync.WaitGroup
		errs := make([]error, len(some))
		for i, slot := range some {
			all.Go(func() {
				_, errs[i] = withFD(s.byNumber, func(byNumber int) (int, error) { return 0, removeElement(byNumber, slot) })
			})
		}
		all.Wait()
		for i, slot := range some {
			if errs[i] == nil { // else the number is lost, there are others
				s.free = append(s.free, slot)
			}
		}
	}
}

// createTable makes the table of one socket. It has all its memory from the
// start, as every map that forgets the peer not seen for longest.
func createTable(peers uint32) (*os.File, error) {
	return createMap(mapSpec{kind: unix.BPF_MAP_TYPE_LRU_HASH, key: peerSize, value: peerValue, entries: peers})
}
