package udprelay

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// lostLog counts the datagrams that are dropped, by why, and says so at once, and then
// no more often than lostEvery. What was not said is said later, if nothing follows.
type lostLog map[reason]*loss

// reason is why datagrams are dropped.
type reason struct {
	text  string
	errno unix.Errno // 0: the text alone says why
}

// loss is what was dropped for a reason.
type loss struct {
	err  error         // the last one
	next time.Duration // before that it is not said again
	n    int           // dropped, and not said
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
	lostQueue     = "datagrams are dropped: the service's queue has no room, or it has sent them to itself"
	lostOutside   = "answers are dropped: they cannot be sent to the client"
	lostExpired   = "answers are dropped: the client has not read"
	lostUnreached = "answers are dropped: the client cannot be reached"
)

var lostEnds = fmt.Sprintf("datagrams are dropped: the service has ended %d times before it had read one", mostTries)

// noteLost notes that n datagrams are dropped; err says why, nil: the text alone does.
func (r *relay) noteLost(n int, text string, err error) {
	if n <= 0 {
		return
	}
	why := reason{text: text}
	errors.As(err, &why.errno)
	lost := r.lost[why]
	if lost == nil {
		lost = new(loss)
		r.lost[why] = lost
	}
	lost.n += n
	lost.err = err
	r.sayLost(text, lost)
}

// sayLost says what was not said, if it is time.
func (r *relay) sayLost(text string, lost *loss) {
	if lost.n == 0 || r.now < lost.next {
		return
	}
	attrs := []any{"addr", r.self.String(), "flows", len(r.flows.byClient), "dropped", lost.n}
	if lost.err != nil {
		attrs = append(attrs, "err", lost.err)
	}
	r.options.Log.Warn(text, attrs...)
	lost.next, lost.n = r.now+lostEvery, 0
}

// tellLost says what its time has come for; at the end all of it.
func (r *relay) tellLost(end bool) {
	for why, lost := range r.lost {
		if end {
			lost.next = 0
		}
		r.sayLost(why.text, lost)
	}
}

// nextTime is when something is to be said that was not; 0: never.
func (l lostLog) nextTime() (next time.Duration) {
	for _, lost := range l {
		if lost.n > 0 && (next == 0 || lost.next < next) {
			next = lost.next
		}
	}
	return next
}
