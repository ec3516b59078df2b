package main

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// endpoint is what one passed descriptor is served by.
type endpoint interface {
	fmt.Stringer
	// serve returns after stop: everything it took is answered then or in the
	// hands of a connection. An error ends the whole process: whoever passed
	// the descriptor mends it and starts us again.
	serve() error
	// stop ends the taking, not the answering. What waits in the queue of a
	// shared socket stays there for the next instance: no shutdown(2) ever.
	stop()
}

// connection is one accepted stream or sequence of records.
type connection interface {
	fmt.Stringer
	echo() error // until the client's end of file, and ours sent
	Close() error
}

// server is the process: its endpoints, its connections and why it ends.
type server struct {
	log      *logger
	limit    int64 // answers before stopping; 0: none
	answers  atomic.Int64
	stopping chan struct{} // closed when nothing more may be taken
	ended    chan struct{} // closed when every endpoint and connection is gone
	freed    chan struct{} // wakes a listener that waits for a free descriptor

	connections atomic.Int64
	running     sync.WaitGroup
	endpoints   []endpoint

	mu       sync.Mutex
	stopped  bool
	firstErr error
}

func newServer(limit int64, log *logger) *server {
	return &server{
		log:      log,
		limit:    limit,
		stopping: make(chan struct{}),
		ended:    make(chan struct{}),
		freed:    make(chan struct{}, 1),
	}
}

// start serves the endpoints, each in a goroutine of its own.
func (s *server) start(endpoints []endpoint) {
	s.endpoints = endpoints
	for _, e := range endpoints {
		s.running.Go(func() {
			if err := e.serve(); err != nil {
				s.fail(fmt.Errorf("%s: %w", e, err))
			}
			s.log.debugf("%s: nothing more is taken", e)
		})
	}
	go func() {
		s.running.Wait()
		close(s.ended)
	}()
}

// serveConnection takes c and answers it in a goroutine of its own.
func (s *server) serveConnection(c connection) {
	s.connections.Add(1)
	s.running.Go(func() { s.echo(c) })
}

// echo takes c and answers it.
func (s *server) echo(c connection) {
	s.log.debugf("%s: open", c)
	err := c.echo()
	if closed := c.Close(); err == nil {
		err = closed
	}
	s.connections.Add(-1)
	select {
	case s.freed <- struct{}{}:
	default:
	}
	if err != nil {
		s.log.debugf("%s: %v", c, err)
	} else {
		s.log.debugf("%s: closed", c)
	}
	s.answered()
}

// answered counts one request. A connection that broke counts too: nobody is
// left to answer.
func (s *server) answered() {
	if s.answers.Add(1) == s.limit {
		s.log.debugf("%d answers: draining", s.limit)
		s.stop()
	}
}

// stop ends the taking on every endpoint. The second call does nothing.
func (s *server) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return
	}
	s.stopped = true
	close(s.stopping)
	for _, e := range s.endpoints {
		e.stop()
	}
}

func (s *server) isStopping() bool {
	select {
	case <-s.stopping:
		return true
	default:
		return false
	}
}

func (s *server) fail(err error) {
	s.mu.Lock()
	if s.firstErr == nil {
		s.firstErr = err
	}
	s.mu.Unlock()
	s.stop()
}

// failure is the first error of an endpoint.
func (s *server) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.firstErr
}
