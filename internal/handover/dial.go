package handover

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"activator/internal/netns"
	"activator/internal/tcpproxy"
)

// How often we look whether the program listens: only while it starts.
const (
	leastLook = time.Millisecond
	mostLook  = 10 * time.Millisecond
)

// awaitListening is false when ctx is done first.
func awaitListening(ctx context.Context, at interface{ FindSockets() (bool, error) }) (bool, error) {
	for pause := leastLook; ; pause = min(pause+pause/4, mostLook) {
		if there, err := at.FindSockets(); there || err != nil {
			return there, err
		}
		select {
		case <-ctx.Done():
			return false, nil
		case <-time.After(pause):
		}
	}
}

// dialer connects clients to the program.
type dialer struct {
	target  *netns.Target
	backend backend
	told    bool // the log knows that the target leads elsewhere
}

// Dial implements [tcpproxy.Dialer]. A program that does not listen, any more or for a
// moment, makes its next client wait, and no other client is accepted then. Mostly it is
// about to end.
func (d *dialer) Dial(client *tcpproxy.Client) (int, error) {
	fd, err := d.target.Dial(client.Addr())
	if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ENOENT) {
		d.backend.noteListening(true)
		return fd, err
	}
	if errors.Is(err, netns.ErrForeign) && !d.told {
		d.told = true
		h := d.backend.of
		h.Log.Warn("nobody is connected: the target leads to a socket that is not the program's", "pid", h.child.Pid(), "err", err)
	}
	d.backend.noteListening(false)
	return -1, errNotListening
}

var errNotListening = fmt.Errorf("it does not listen: %w", syscall.EAGAIN)

// backend is a program that may have stopped listening. One that lives on, and has not
// listened for as long as a client may wait while there was one, is killed.
type backend struct {
	of     *proxy
	silent time.Time // since when it has not listened; zero: it listens
}

func (b *backend) noteListening(listens bool) {
	if listens {
		b.silent = time.Time{}
		return
	}
	if b.silent.IsZero() {
		b.silent = time.Now()
	}
	if hold := b.of.Spec.Hold; hold > 0 && time.Since(b.silent) > hold {
		b.of.Log.Error("service killed: it does not listen any more", "pid", b.of.child.Pid(), "hold", hold)
		b.silent = time.Now()
		b.of.child.Kill()
	}
}
