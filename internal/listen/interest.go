package listen

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"activator/internal/epoll"
)

// interests are what is watched for all sockets: those that are armed, and the nodes.
type interests struct {
	loop *epoll.Loop

	mu     sync.Mutex
	closed bool
	armed  map[epoll.ID]*interest // by the id in the event
	nodes  nodeWatch
}

// interest is what is watched of one socket. Its methods need the socket's mutex, or are
// called with the one of interests.
type interest struct {
	in       *interests // nil: nothing is watched; with the socket's mutex
	id       epoll.ID   // 0: not armed; this and below with in.mu
	file     *os.File   // registered in epoll; nil while the socket has none
	ready    func()
	answered func()   // instead of ready, when the fast path has been carried out
	links    []string // symlinks that are watched
}

// armInterest has ready called once for file; the queue of what is armed already is asked once more.
func (in *interests) armInterest(x *interest, file *os.File, ready func()) error {
	if x.id != 0 {
		x.ready = ready
		return in.askQueue(x, file)
	}
	x.id, x.ready = in.loop.NewID(), ready
	if err := in.askQueue(x, file); err != nil {
		in.disarm(x)
		return err
	}
	in.armed[x.id] = x
	return nil
}

// askQueue has epoll look at a queue: it does when a descriptor is added, and when it is modified.
func (in *interests) askQueue(x *interest, file *os.File) error {
	if x.file != nil && x.file == file {
		err := in.control(unix.EPOLL_CTL_MOD, x, readable)
		if !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return in.addFile(x, file)
}

// readable is once, level-triggered.
const readable = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT

// addFile registers a file in place of the one before.
func (in *interests) addFile(x *interest, file *os.File) error {
	in.removeFile(x)
	if file == nil {
		return errClosed
	}
	x.file = file
	err := in.control(unix.EPOLL_CTL_ADD, x, readable)
	if err != nil {
		x.file = nil
	}
	return err
}

// removeFile matters: a description that a service still holds stays in the epoll when our
// descriptor is closed. epoll(7), Q6.
func (in *interests) removeFile(x *interest) {
	if x.file != nil {
		_ = in.control(unix.EPOLL_CTL_DEL, x, 0)
		x.file = nil
	}
}

func (in *interests) control(op int, x *interest, events uint32) error {
	return in.loop.Control(op, x.file, x.id, events)
}

// disarm ends the wait for a client.
func (in *interests) disarm(x *interest) {
	if x.id == 0 {
		return
	}
	in.removeFile(x)
	in.loop.FreeID(x.id)
	delete(in.armed, x.id)
	x.id, x.ready, x.answered = 0, nil, nil
}

// leaveFile takes the descriptor out before it is closed; the socket stays armed for the one
// that moveTo brings.
func (x *interest) leaveFile() {
	if x.in == nil {
		return
	}
	x.in.mu.Lock()
	defer x.in.mu.Unlock()
	x.in.removeFile(x)
}

// moveTo registers a new descriptor if the socket is armed.
func (x *interest) moveTo(file *os.File) error {
	if x.in == nil {
		return nil
	}
	x.in.mu.Lock()
	defer x.in.mu.Unlock()
	if x.id == 0 {
		return nil
	}
	return x.in.addFile(x, file)
}

// rewatchNode looks up the folders of a node again: they may be other folders now. What is not
// as it should be now may be told anew, once mended is true.
func (x *interest) rewatchNode(n *node, mended bool) {
	if x.in == nil || n == nil {
		return
	}
	x.in.mu.Lock()
	defer x.in.mu.Unlock()
	_ = x.in.nodes.rewatchNode(x, *n, mended)
	for _, path := range x.links {
		_ = x.in.nodes.rewatchNode(linkOf{x, path}, node{path: path, id: inodeAt(path)}, mended)
	}
}

// forget ends all of it.
func (x *interest) forget() {
	if x.in == nil {
		return
	}
	x.in.mu.Lock()
	defer x.in.mu.Unlock()
	x.in.forgetInterest(x)
}

func (in *interests) forgetInterest(x *interest) {
	in.disarm(x)
	in.nodes.tree.forgetNode(x)
	in.nodes.forgetLinks(x)
}
