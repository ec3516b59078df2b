package sockfilter

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/cgroup"
	"activator/internal/spec"
)

// groupPrefix begins the name of the groups in which sockets are made.
const groupPrefix = "activator-sockets-"

// defaultPeers is how many clients a socket remembers.
const defaultPeers = 8192

// expire is how long a client may be silent and not be answered, and be answered still: as that of a
// relay. Tests wait for less.
var expire = 2 * time.Minute

// Programs are what seals UDP sockets, loaded once.
type Programs struct {
	maker
	slots    *os.File // cookie of a socket -> number of its table
	byNumber *os.File // number -> table
	arrivals *os.File // where clients of a link have come in
	supply   *supply

	mu       sync.Mutex
	admitted map[uint64]uint32 // as slots
	closed   bool
}

// Open loads the programs, tries whether they seal a socket, and removes what an activator that was killed has left
// behind. Each socket will remember peers clients, 0: [defaultPeers]; a table of
// the default takes 0.9 MB of the kernel's memory.
//
// The error is an *[Error], and says in a sentence what is missing.
func Open(peers int) (*Programs, error) {
	if peers == 0 {
		peers = defaultPeers
	}
	p, err := loadShared(uint32(peers))
	if err != nil {
		return nil, err
	}
	if err = newStepError(stepGroup, p.groups.Sweep()); err == nil {
		err = p.trySeal()
	}
	if err != nil {
		_ = p.Close()
		return nil, err
	}
	p.supply = newSupply(p.byNumber, uint32(peers))
	return p, nil
}

// loadShared makes all that is shared by the sockets.
func loadShared(peers uint32) (*Programs, error) {
	if err := checkRights(); err != nil {
		return nil, err
	}
	p := &Programs{maker: newMaker(hooks()), admitted: map[uint64]uint32{}}
	err := p.loadAll()
	if err != nil {
		_ = p.Close()
		return nil, err
	}
	return p, nil
}

func (p *Programs) loadAll() (err error) {
	if p.groups, err = cgroup.Mount(groupPrefix); err != nil {
		return newStepError(stepMount, err)
	}
	// BPF_F_NO_PREALLOC: what is not there takes no memory.
	p.slots, err = createMap(mapSpec{kind: unix.BPF_MAP_TYPE_HASH, key: 8, value: 4, entries: maxTables, flags: unix.BPF_F_NO_PREALLOC})
	if err != nil {
		return newStepError(stepTables, err)
	}
	sample, err := createTable(1)
	if err != nil {
		return newStepError(stepTables, err)
	}
	defer func() { _ = sample.Close() }()
	_, err = withFD(sample, func(fd int) (_ int, err error) {
		p.byNumber, err = createMap(mapSpec{kind: unix.BPF_MAP_TYPE_ARRAY_OF_MAPS, key: 4, value: 4, entries: maxTables, inner: uint32(fd)})
		return 0, err
	})
	if err != nil {
		return newStepError(stepTables, err)
	}
	p.arrivals, err = createMap(mapSpec{kind: unix.BPF_MAP_TYPE_LRU_HASH, key: arrivalSize, value: 4, entries: arrivals})
	if err != nil {
		return newStepError(stepTables, err)
	}
	return p.withTables(p.loadPrograms)
}

// withTables lends the descriptors of the maps.
func (p *Programs) withTables(f func(tables) error) error {
	t := tables{expire: int32(expire.Nanoseconds() >> expireShift)}
	_, err := withFD(p.slots, func(slots int) (int, error) {
		return withFD(p.byNumber, func(byNumber int) (int, error) {
			return withFD(p.arrivals, func(arrivals int) (int, error) {
				t.slots, t.byNumber, t.arrivals = slots, byNumber, arrivals
				return 0, f(t)
			})
		})
	})
	return err
}

// Admit gives a socket its table, so that it can answer; before, it can send
// nothing. A socket that has one keeps it, with the clients in it. The socket is
// lent for the call.
//
// A few tables are kept ready, so that it mostly takes microseconds: to make one
// takes the kernel about ten milliseconds.
func (p *Programs) Admit(socket *os.File) error {
	cookie, err := cookieOf(socket)
	if err != nil {
		return err
	}
	if p.isAdmitted(cookie) {
		return nil
	}
	slot, err := p.supply.takeTable() // not under the lock: it may take its time
	if err != nil {
		return newStepError(stepTables, err)
	}
	if err := p.giveTable(cookie, slot); err != nil {
		p.supply.releaseTable(slot)
		return newStepError(stepTables, err)
	}
	return nil
}

func (p *Programs) isAdmitted(cookie uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, has := p.admitted[cookie]
	return has
}

// giveTable publishes a table as that of a socket, unless it has got one meanwhile.
func (p *Programs) giveTable(cookie uint64, slot uint32) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return os.ErrClosed
	}
	if _, has := p.admitted[cookie]; has {
		p.supply.releaseTable(slot)
		return nil
	}
	_, err := withFD(p.slots, func(fd int) (int, error) { return 0, setElement(fd, cookie, slot) })
	if err == nil {
		p.admitted[cookie] = slot
	}
	return err
}

// Forget takes the table of a socket away: it can send nothing any more. It is
// for a socket that will be closed, and lent for the call.
func (p *Programs) Forget(socket *os.File) error {
	cookie, err := cookieOf(socket)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	slot, has := p.admitted[cookie]
	if !has || p.closed {
		return nil
	}
	_, err = withFD(p.slots, func(fd int) (int, error) { return 0, removeElement(fd, cookie) })
	if err != nil {
		return newStepError(stepTables, err)
	}
	delete(p.admitted, cookie)
	p.supply.releaseTable(slot)
	return nil
}

// Close gives back what only we use. Sockets that are open stay sealed and keep
// their tables.
func (p *Programs) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	if p.supply != nil {
		p.supply.close()
	}
	p.maker.close()
	for _, f := range []*os.File{p.slots, p.byNumber, p.arrivals} {
		if f != nil {
			_ = f.Close()
		}
	}
	return nil
}

// cookieOf returns the number that a socket alone has ever had, SO_COOKIE of
// socket(7).
func cookieOf(socket *os.File) (cookie uint64, err error) {
	_, err = withFD(socket, func(fd int) (_ int, err error) {
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
		return 0, os.NewSyscallError("getsockopt SO_COOKIE", err)
	})
	return cookie, err
}

// Ability tries all that sealing needs, leaves nothing
// behind, and reports whether it can be had, what was seen, and how to get it.
func Ability() (ok bool, detail, cure string) { return describeTrial(tryAlone()) }

func describeTrial(err error) (ok bool, detail, cure string) {
	known, is := err.(*Error)
	switch {
	case err == nil:
		return true, "programs loaded and attached", ""
	case is:
		return false, known.Step + ": " + known.Err.Error(), known.Cure
	}
	return false, err.Error(), ""
}

func tryAlone() error {
	p, err := loadShared(1)
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }()
	return p.trySeal()
}

// trySeal seals a socket that is closed at once.
func (p *Programs) trySeal() error {
	sockets, err := p.MakeSockets([]spec.Kind{{Family: unix.AF_INET, Type: unix.SOCK_DGRAM}})
	closeFiles(sockets)
	return err
}
