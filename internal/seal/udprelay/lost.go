package udprelay

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// stepError is an error of one step.
type stepError struct {
	step string
	err  error
}

func (e *stepError) Error() string { return e.step + ": " + e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// lostLog counts the datagrams that are dropped, by why, and says so at once, and then
// no more often than lostEvery. What was not said is said later, if nothing follows.
type lostLog struct {
	reasons []*reason
}

type reason struct {
	text  string
	errno unix.Errno
	err   error         // the last one
	next  time.Duration // before that it is not said again
	n     int           // dropped, and not said
}

// lostEvery is how often the log may name one reason.
const lostEvery = 10 * time.Second

// What is dropped, and why; most of them with an errno.
const (
	lostFull      = "datagrams of new clients are dropped: the table of flows is full"
	lostFlow      = "datagrams of new clients are dropped: they cannot have a flow"
	lostNowhere   = "datagrams are dropped: nobody could be answered at the address of the client"
	lostUnheard   = "datagrams are dropped: the service does not hear at the address that was asked"
	lostInside    = "datagrams are dropped: they cannot be sent to the service"
	lostRefused   = "datagrams are dropped: the service's socket does not take them"
	lostQueue     = "datagrams are dropped: the service's queue has no room, or its filter refuses them"
	lostOutside   = "answers are dropped: they cannot be sent to the client"
	lostExpired   = "answers are dropped: the client has not read"
	lostUnreached = "answers are dropped: the client cannot be reached"
)

var lostEnds = fmt.Sprintf("datagrams are dropped: the service has ended %d times before it had read one", mostTries)

// lose notes that n datagrams are dropped; err says why, nil: the text alone does.
func (d *relay) lose(n int, text string, err error) {
	if n <= 0 {
		return
	}
	var errno unix.Errno
	_ = errors.As(err, &errno)
	at := slices.IndexFunc(d.lost.reasons, func(r *reason) bool { return r.text == text && r.errno == errno })
	if at < 0 {
		at = len(d.lost.reasons)
		d.lost.reasons = append(d.lost.reasons, &reason{text: text, errno: errno})
	}
	r := d.lost.reasons[at]
	r.n += n
	r.err = err
	d.sayLost(r)
}

// sayLost says what was not said, if it is time.
func (d *relay) sayLost(r *reason) {
	if d.options.Log == nil || r.n == 0 || d.now < r.next {
		return
	}
	attrs := []any{"addr", d.self.String(), "flows", len(d.byClient), "dropped", r.n}
	if r.err != nil {
		attrs = append(attrs, "err", r.err)
	}
	d.options.Log.Warn(r.text, attrs...)
	r.next, r.n = d.now+lostEvery, 0
}

// tellLost says what its time has come for; at the end all of it.
func (d *relay) tellLost(end bool) {
	for _, r := range d.lost.reasons {
		if end {
			r.next = 0
		}
		d.sayLost(r)
	}
}

// untilTold is when something is to be said that was not; 0: never.
func (l *lostLog) untilTold() (next time.Duration) {
	for _, r := range l.reasons {
		if r.n > 0 && (next == 0 || r.next < next) {
			next = r.next
		}
	}
	return next
}

// seeDropped looks whether what was sent last has been dropped, before nobody comes for long.
func (d *relay) seeDropped() {
	if d.sent && d.family != unix.AF_UNIX && d.carry.inside == nil {
		_, _, _ = d.lookInside()
	}
}

// lookInside asks how full the inner queue is, and what it has dropped since: what was sent and
// finds no room, or a filter of the service's, is lost without an error.
func (d *relay) lookInside() (used, buffer int, err error) {
	var info [unix.SK_MEMINFO_VARS]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, e := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(d.innerFD), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if e != 0 {
		return 0, 0, os.NewSyscallError("getsockopt SO_MEMINFO", e)
	}
	dropped := info[unix.SK_MEMINFO_DROPS]
	d.lose(int(dropped-d.innerDrops), lostQueue, nil)
	d.innerDrops, d.sent = dropped, false
	return int(info[unix.SK_MEMINFO_RMEM_ALLOC]), int(info[unix.SK_MEMINFO_RCVBUF]), nil
}
