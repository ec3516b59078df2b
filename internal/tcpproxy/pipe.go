package tcpproxy

import (
	"golang.org/x/sys/unix"

	"activator/internal/kernel/budget"
)

const (
	pipeSize  = 1 << 20 // bytes: asked for, an ordinary user may get less. pipe(7), fcntl(2) F_SETPIPE_SZ
	maxPipes  = 16      // at once; a direction that gets none copies
	keptPipes = 4       // empty, while there are connections
)

// pipe holds spliced bytes between two sockets. A direction has one only while it holds some.
type pipe struct {
	read, write int32
	holds       int // bytes
}

// pipes is the pool. A slow reader keeps its pipe. When all are taken the others copy, so no
// direction waits.
type pipes struct {
	share  *budget.Share // each takes two
	unused []*pipe
	open   int
}

// takePipe returns an empty pipe, or nil.
func (p *pipes) takePipe() *pipe {
	if last := len(p.unused) - 1; last >= 0 {
		x := p.unused[last]
		p.unused = p.unused[:last]
		return x
	}
	if p.open >= maxPipes || p.share.Room() < 2 {
		return nil
	}
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC) != nil {
		return nil
	}
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize)
	p.open++
	p.share.Take(2)
	return &pipe{read: int32(fds[0]), write: int32(fds[1])}
}

// putPipe takes x back; one that holds something is closed.
func (p *pipes) putPipe(x *pipe) {
	if x.holds == 0 && len(p.unused) < keptPipes {
		p.unused = append(p.unused, x)
		return
	}
	p.closePipe(x)
}

func (p *pipes) closePipe(x *pipe) {
	closeFD(x.read)
	closeFD(x.write)
	p.open--
	p.share.Give(2)
}

// closeUnused closes the pipes that are not in use.
func (p *pipes) closeUnused() {
	for _, x := range p.unused {
		p.closePipe(x)
	}
	p.unused = p.unused[:0]
}
