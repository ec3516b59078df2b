package sockfilter

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/netns"
	"activator/internal/spec"
)

// An ordinary user is told in a sentence what is missing.
func TestOrdinaryUser(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root has what it takes: run the test as an ordinary user, too")
	}
	var known *Error
	if _, err := Open(0); !errors.As(err, &known) || !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "CAP_BPF") || known.Cure == "" {
		t.Errorf("got %v", err)
	}
	if ok, detail, cure := Ability(); ok || !strings.Contains(detail, "CAP_BPF") || cure == "" {
		t.Errorf("got %v, %q, %q", ok, detail, cure)
	}
}

func TestAbility(t *testing.T) {
	p := open(t, 0)
	before := groups(t, p)
	began := time.Now()
	if ok, detail, cure := Ability(); !ok || detail == "" || cure != "" {
		t.Errorf("got %v, %q, %q", ok, detail, cure)
	}
	t.Logf("took %v", time.Since(began))
	if after := groups(t, p); len(after) > len(before) {
		t.Errorf("left %v, before %v", after, before)
	}
}

// Thousands of sockets take one child.
func TestMany(t *testing.T) {
	p := open(t, 0)
	started := 0
	p.make = func(cgroup int, kinds []spec.Kind) ([]int, error) {
		started++
		return netns.MakeSocketsInGroup(cgroup, kinds)
	}
	kinds := make([]spec.Kind, 2000)
	for i := range kinds {
		kinds[i] = udp4()
		if i%3 == 0 {
			kinds[i] = udp6()
		}
	}
	began := time.Now()
	sockets, err := p.MakeSockets(kinds)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFiles(sockets)
	t.Logf("%d sockets in %v", len(sockets), time.Since(began))
	if started != 1 || len(sockets) != len(kinds) {
		t.Errorf("%d children for %d sockets", started, len(sockets))
	}
	for i, s := range sockets {
		family, err := unix.GetsockoptInt(fdOf(t, s), unix.SOL_SOCKET, unix.SO_DOMAIN)
		if err != nil || family != kinds[i].Family {
			t.Fatalf("socket %d: family %d, %v", i, family, err)
		}
	}
}

func TestAllOrNone(t *testing.T) {
	p := open(t, 0)
	for _, k := range []spec.Kind{kind(unix.AF_INET, unix.SOCK_STREAM, 0), kind(unix.AF_UNIX, unix.SOCK_DGRAM, 0), kind(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE), kind(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_UDP)} {
		if sockets, err := p.MakeSockets([]spec.Kind{udp4(), k}); err == nil || len(sockets) != 0 {
			t.Errorf("%v: got %v, %v", k, sockets, err)
		}
	}
	if sockets, err := p.MakeSockets(nil); err != nil || len(sockets) != 0 {
		t.Errorf("of nothing: got %v, %v", sockets, err)
	}
}

// Without descriptors for all there are none.
func TestNoDescriptors(t *testing.T) {
	p := open(t, 0)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) }()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	kinds := make([]spec.Kind, 100)
	for i := range kinds {
		kinds[i] = udp4()
	}
	sockets, err := p.MakeSockets(kinds)
	if !errors.Is(err, unix.EMFILE) || len(sockets) != 0 || !strings.Contains(err.Error(), "ulimit -n") {
		t.Errorf("got %d sockets, %v", len(sockets), err)
	}
}

// A socket's table is there from Admit to Forget, with who is in it.
func TestAdmitAndForget(t *testing.T) {
	p := open(t, 0)
	onWire(t, func(w *wire) {
		sockets, err := p.MakeSockets([]spec.Kind{udp4()})
		w.must("sockets", err)
		defer closeFiles(sockets)
		fd := fdOf(t, sockets[0])
		port := w.bound(fd, udp4())
		answer := func() error { return unix.Sendto(fd, []byte("x"), 0, sockaddr(client4, false)) }

		w.heard(fd, port, client4)
		if err := answer(); !errors.Is(err, unix.EPERM) {
			t.Errorf("without a table: %v, want %v", err, unix.EPERM)
		}
		w.must("admit", p.Admit(sockets[0]))
		if err := answer(); !errors.Is(err, unix.EPERM) {
			t.Errorf("to whom was heard before: %v, want %v", err, unix.EPERM)
		}
		w.heard(fd, port, client4)
		w.must("answer", answer())
		w.must("admit again", p.Admit(sockets[0]))
		w.must("answer after that", answer())
		w.must("forget", p.Forget(sockets[0]))
		w.must("forget again", p.Forget(sockets[0]))
		if err := answer(); !errors.Is(err, unix.EPERM) {
			t.Errorf("forgotten: %v, want %v", err, unix.EPERM)
		}
		for range 2 * ready { // whichever table it gets, that of before or a new one
			w.must("admit anew", p.Admit(sockets[0]))
			if err := answer(); !errors.Is(err, unix.EPERM) {
				t.Errorf("admitted anew: %v, want %v", err, unix.EPERM)
			}
			w.heard(fd, port, client4)
			w.must("answer", answer())
			w.must("forget", p.Forget(sockets[0]))
		}
	})
}

// A datagram that waited in the queue is heard when the program takes it.
func TestQueued(t *testing.T) {
	p := open(t, 0)
	onWire(t, func(w *wire) {
		sockets, err := p.MakeSockets([]spec.Kind{udp6()})
		w.must("sockets", err)
		defer closeFiles(sockets)
		fd := fdOf(t, sockets[0])
		port := w.bound(fd, udp6())
		w.arrive(client6, port, []byte("first"))
		w.must("admit", p.Admit(sockets[0]))
		if got := w.next(fd); got != "first" {
			t.Fatalf("received %q", got)
		}
		w.must("answer", unix.Sendto(fd, []byte("x"), 0, sockaddr(client6, false)))
	})
}

// A flood at one socket makes no other forget, nor itself whom it heard last. Which of
// the others it forgets is the kernel's choice: a processor keeps up to 128 of those
// that it heard to itself, however old they are (kernel/bpf/bpf_lru_list.h).
func TestFlood(t *testing.T) {
	p := open(t, 0)
	onWire(t, func(w *wire) {
		flooded, quiet := fdOf(t, sealed(t, p, udp4())), fdOf(t, sealed(t, p, udp4()))
		w.heard(quiet, w.bound(quiet, udp4()), client4)
		port := w.bound(flooded, udp4())
		w.heard(flooded, port, client4)
		clients := make([]netip.AddrPort, 20000)
		for i := range clients {
			n := binary.BigEndian.AppendUint16(nil, uint16(256+i))
			clients[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, n[0], n[1]}), uint16(1024+i))
			w.heard(flooded, port, clients[i])
		}
		last := clients[len(clients)-1]
		w.must("the quiet one's client", unix.Sendto(quiet, []byte("x"), 0, sockaddr(client4, false)))
		w.must("the last of the flood", unix.Sendto(flooded, []byte("x"), 0, sockaddr(last, false)))
		remembered := 0
		for _, c := range clients {
			err := unix.Sendto(flooded, []byte("x"), 0, sockaddr(c, false))
			if err == nil {
				remembered++
			} else if !errors.Is(err, unix.EPERM) {
				t.Fatalf("to %v: %v, want %v", c, err, unix.EPERM)
			}
		}
		if remembered > defaultPeers || remembered < defaultPeers/2 {
			t.Errorf("of %d clients a table of %d remembers %d", len(clients), defaultPeers, remembered)
		}
		if err := unix.Sendto(quiet, []byte("x"), 0, sockaddr(last, false)); !errors.Is(err, unix.EPERM) {
			t.Errorf("the other one's client: %v, want %v", err, unix.EPERM)
		}
	})
}

// What the kernel holds for a socket goes with it.
func TestNothingLeaks(t *testing.T) {
	p := open(t, 16)
	sockets, err := p.MakeSockets([]spec.Kind{udp4()})
	if err != nil {
		t.Fatal(err)
	}
	defer closeFiles(sockets)
	if err := p.Admit(sockets[0]); err != nil {
		t.Fatal(err)
	}
	cookie, err := cookieOf(sockets[0])
	if err != nil {
		t.Fatal(err)
	}
	table := tableID(t, fdOf(t, p.byNumber), p.admitted[cookie])
	programs := make([]uint32, 0, len(p.programs))
	for _, program := range p.programs {
		programs = append(programs, objectID(t, fdOf(t, program)))
	}
	if !alive(unix.BPF_MAP_GET_FD_BY_ID, table) {
		t.Fatal("a table in use is not there")
	}
	if err := p.Forget(sockets[0]); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a forgotten table goes", func() bool { return !alive(unix.BPF_MAP_GET_FD_BY_ID, table) })
	_ = p.Close()
	for _, id := range programs {
		if !alive(unix.BPF_PROG_GET_FD_BY_ID, id) {
			t.Error("a program is gone before the last socket")
		}
	}
	closeFiles(sockets)
	for _, id := range programs {
		eventually(t, "the programs go with the last socket", func() bool { return !alive(unix.BPF_PROG_GET_FD_BY_ID, id) })
	}
}

// tableID returns the kernel's number of a table.
func tableID(t *testing.T, byNumber int, slot uint32) (id uint32) {
	t.Helper()
	e := mapElement{fd: uint32(byNumber), key: unsafe.Pointer(&slot), value: unsafe.Pointer(&id)}
	if _, err := bpf(unix.BPF_MAP_LOOKUP_ELEM, unsafe.Pointer(&e), unsafe.Sizeof(e)); err != nil {
		t.Fatal(err)
	}
	return id
}

// objectID returns the kernel's number of a program.
func objectID(t *testing.T, fd int) uint32 {
	t.Helper()
	var info struct{ kind, id uint32 }
	request := struct {
		fd, length uint32
		info       unsafe.Pointer
	}{uint32(fd), uint32(unsafe.Sizeof(info)), unsafe.Pointer(&info)}
	if _, err := bpf(unix.BPF_OBJ_GET_INFO_BY_FD, unsafe.Pointer(&request), unsafe.Sizeof(request)); err != nil {
		t.Fatal(err)
	}
	return info.id
}

func alive(command int, id uint32) bool {
	request := struct{ id, next, flags uint32 }{id: id}
	fd, err := bpf(command, unsafe.Pointer(&request), unsafe.Sizeof(request))
	if err == nil {
		_ = unix.Close(fd)
	}
	return err == nil
}

// To admit is cheap while tables are ready, and works when none is.
func TestAdmitMany(t *testing.T) {
	p := open(t, 0)
	kinds := make([]spec.Kind, 3*ready)
	for i := range kinds {
		kinds[i] = udp4()
	}
	sockets, err := p.MakeSockets(kinds)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFiles(sockets)
	eventually(t, "the supply is full", func() bool { return len(p.supply.tables) == ready })
	for i, s := range sockets {
		began := time.Now()
		if err := p.Admit(s); err != nil {
			t.Fatal(err)
		}
		t.Logf("%d: %v", i, time.Since(began))
	}
	_ = p.Close()
	if err := p.Admit(sockets[0]); err != nil {
		t.Errorf("one that is admitted: %v", err)
	}
	if err := p.Forget(sockets[0]); err != nil {
		t.Errorf("forget after the end: %v", err)
	}
}

// Many at once, each from several goroutines: every socket ends with one table, and
// what was taken in vain comes back.
func TestAdmitAtOnce(t *testing.T) {
	p := open(t, 16)
	kinds := make([]spec.Kind, 50)
	for i := range kinds {
		kinds[i] = udp4()
	}
	sockets, err := p.MakeSockets(kinds)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFiles(sockets)
	each := func(do func(*os.File) error) {
		var all sync.WaitGroup
		for _, s := range sockets {
			for range 3 {
				all.Go(func() {
					if err := do(s); err != nil {
						t.Error(err)
					}
				})
			}
		}
		all.Wait()
	}
	for range 3 {
		each(p.Admit)
		used := map[uint32]bool{}
		for _, slot := range p.admitted {
			used[slot] = true
		}
		if len(p.admitted) != len(sockets) || len(used) != len(sockets) {
			t.Fatalf("%d sockets have %d tables", len(p.admitted), len(used))
		}
		each(p.Forget)
	}
	_ = p.Close() // ends the goroutine that has the numbers
	if most := uint32(3*len(sockets) + 2*ready); p.supply.next > most {
		t.Errorf("%d numbers for %d sockets", p.supply.next, len(sockets))
	}
	if err := p.Admit(sockets[0]); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}
