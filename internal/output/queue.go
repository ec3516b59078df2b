package output

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

const (
	eventShare   = 256 << 10 // bytes of the activator's own lines that may wait
	serviceShare = 16 << 10  // bytes of one service that may wait before it does
	batchSize    = 64 << 10  // bytes of one write(2), but for the last line's length
	flushTimeout = 2 * time.Second
	stallTimeout = time.Second // how long one write(2) may take before the reader counts as stalled
)

// queue is what is on its way to one file. One goroutine writes it, so that nothing
// waits for the file's reader. It is first in, first out, and bounded for each
// owner. Nothing runs before the first chunk comes.
type queue struct {
	file  *os.File
	owned bool                // the file is closed at the end, and its flags are our own
	apart bool                // what was dropped is told in another queue
	most  int                 // bytes of one write(2), but for the last chunk's length
	count func(b []byte) int  // what the loss of b is counted as
	tell  func(last bool) int // notes, with mu held, how much was dropped; returns what is left to note
	wake  chan struct{}       // capacity 1: the queue is not empty, or closing
	done  chan struct{}       // closed by the writer at its end

	mu       sync.Mutex
	next     *os.File  // the file that follows; nil: none
	room     sync.Cond // some of the queue was written, or the reader stalls, or closing
	entries  []entry
	dropped  int                 // since the last note about it, as count has it
	writes   int                 // that have returned
	accounts map[string]*account // of services
	running  bool                // there is a goroutine that writes
	stalled  bool                // the write(2) under way takes too long
	broken   bool                // the last write(2) failed
	closing  bool
}

// entry is one line, formatted, or some bytes.
type entry struct {
	line []byte
	of   *account
}

// account is what a service, or the activator itself, has in the queue.
type account struct{ bytes int }

// accountOf returns what a service has. All its processes share it, also those to come.
func (q *queue) accountOf(service string) *account {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.accounts[service] == nil {
		q.accounts[service] = &account{}
	}
	return q.accounts[service]
}

// init makes a queue for f.
func (q *queue) init(f *os.File) {
	q.file, q.most, q.accounts = f, batchSize, make(map[string]*account)
	if kind, err := socketType(f); err == nil && kind != unix.SOCK_STREAM {
		q.most = 1 // a datagram for each chunk
	}
	q.wake, q.done = make(chan struct{}, 1), make(chan struct{})
	q.room.L = &q.mu
}

func socketType(f *os.File) (kind int, err error) {
	err = fd.Control(f, func(socket int) (err error) {
		kind, err = unix.GetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_TYPE)
		return err
	})
	return kind, err
}

// pushLine queues a copy of line; before it, what was dropped since the last line.
// Where the share of its owner is full it counts the line as dropped. The caller
// holds q.mu.
func (q *queue) pushLine(line []byte, of *account, share int) {
	if q.closing {
		return
	}
	if of.bytes >= share {
		q.dropped += q.count(line)
		return
	}
	if q.dropped > 0 {
		q.dropped = q.tell(false)
	}
	q.appendLine(bytes.Clone(line), of)
	if !q.running {
		q.running = true
		go q.writeQueue()
	}
	wakeUp(q.wake)
}

func (q *queue) appendLine(line []byte, of *account) {
	q.entries = append(q.entries, entry{line, of})
	of.bytes += len(line)
}

// await queues a line as soon as there is room for it. When finishing says so, it
// does not wait for a reader that stalls.
func (q *queue) await(line []byte, of *account, finishing *bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for of.bytes >= serviceShare && !q.closing && !(*finishing && q.stalled) {
		q.room.Wait()
	}
	q.pushLine(line, of, serviceShare)
}

// end has what is queued written, and the goroutine end. Later lines are dropped.
func (q *queue) end() {
	q.mu.Lock()
	if !q.closing && !q.running {
		q.running = true
		go q.writeQueue()
	}
	q.closing = true
	q.mu.Unlock()
	q.room.Broadcast()
	wakeUp(q.wake)
}

// writeQueue is the goroutine that writes. It sleeps while the queue is empty.
func (q *queue) writeQueue() {
	defer close(q.done)
	defer func() {
		q.takeNext()
		if q.owned {
			_ = q.file.Close()
		}
	}()
	var batch []byte
	for {
		q.takeNext()
		var closing bool
		batch, closing = q.takeBatch(batch[:0])
		if len(batch) > 0 {
			write := q.writes // which nothing else changes
			late := time.AfterFunc(stallTimeout, func() { q.noteStall(write) })
			n, err := q.writeAll(batch)
			q.noteWritten(batch[n:], err)
			late.Stop()
			continue
		}
		if closing {
			return
		}
		batch = nil // let a burst's memory go
		<-q.wake
	}
}

// follow has what is not written yet go to another file, which is the queue's from now on.
func (q *queue) follow(f *os.File) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.next != nil {
		_ = q.next.Close()
	}
	q.next = f
	if q.running {
		wakeUp(q.wake)
		return
	}
	_ = q.file.Close()
	q.file, q.next = f, nil
}

// takeNext goes on to the file that follows. Only the writer does.
func (q *queue) takeNext() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.next != nil {
		_ = q.file.Close()
		q.file, q.next = q.next, nil
	}
}

// noteStall notes that the reader stalls, if a write(2) is still under way.
func (q *queue) noteStall(write int) {
	q.mu.Lock()
	q.stalled = q.stalled || q.writes == write
	q.mu.Unlock()
	q.room.Broadcast()
}

// takeBatch moves lines from the queue to batch and tells their owners that there is
// room again.
func (q *queue) takeBatch(batch []byte) ([]byte, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.entries) == 0 && q.dropped > 0 && (!q.broken || q.apart && q.closing) {
		q.dropped = q.tell(q.closing)
	}
	n := 0
	for ; n < len(q.entries) && len(batch) < q.most; n++ {
		e := q.entries[n]
		batch = append(batch, e.line...)
		q.entries[n] = entry{}
		e.of.bytes -= len(e.line)
	}
	q.entries = q.entries[n:]
	if len(batch) > 0 {
		q.room.Broadcast()
	} else {
		q.entries = nil // let a burst's memory go
	}
	return batch, q.closing
}

// noteWritten notes how writing a batch ended, and what was not written. An error of
// the log could be told only through the log itself: its lines count as dropped.
func (q *queue) noteWritten(rest []byte, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.writes++
	q.stalled, q.broken = false, err != nil
	if err != nil {
		q.dropped += q.count(rest)
	}
}

// writeAll writes b and returns how much of it was written.
func (q *queue) writeAll(b []byte) (int, error) {
	if q.owned {
		return q.file.Write(b)
	}
	return writeShared(q.file, b)
}

// writeShared writes b to f, whatever f is, and whatever process shares its flags. Not
// through (*os.File).Write: that ends the process on EPIPE when f is stdout or
// stderr, and an activator outlives the reader of its log.
func writeShared(f *os.File, b []byte) (written int, err error) {
	err = fd.Control(f, func(out int) error {
		for written < len(b) {
			n, err := unix.Write(out, b[written:])
			switch err {
			case nil:
				written += n
			case unix.EINTR:
			case unix.EAGAIN:
				if _, err := fd.Poll(out, unix.POLLOUT, -1); err != nil {
					return err
				}
			default:
				return os.NewSyscallError("write", err)
			}
		}
		return nil
	})
	return written, err
}

// flush ends the queue, and waits at most for limit. It reports whether all was written.
func (q *queue) flush(limit time.Duration) bool {
	q.end()
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case <-q.done:
		return true
	case <-late.C:
		return false
	}
}

// unwritten is the error of a queue that flush has given up.
func (q *queue) unwritten() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return fmt.Errorf("log: %d lines not written: the reader of %s stalls", len(q.entries)+q.dropped, q.file.Name())
}

// wakeUp leaves word in a channel of capacity 1.
func wakeUp(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
