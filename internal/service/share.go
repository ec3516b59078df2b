package service

import (
	"log/slog"
	"os"
	"slices"
	"time"

	"activator/internal/listen"
	"activator/internal/output"
	"activator/internal/process"
	"activator/internal/spec"
)

// What the room of services with an instance for each client, package inetd,
// does like this one.

// Clean tells a run that ended as a program ends, as in systemd.service(5),
// SuccessExitStatus=.
func Clean(e process.Exit) bool { return clean(e) }

// History is what the starts so far have earned. Zero is none.
type History struct{ history history }

// Rest counts a run that has just ended and returns how long to rest after it.
func (h *History) Rest(l spec.Timeouts, ran time.Duration, failed bool) (delay time.Duration) {
	h.history, delay = h.history.rest(l, ran, failed, time.Now())
	return delay
}

// Queues knows since when the clients of a service's sockets have waited without
// anything moving.
type Queues struct{ queues queues }

// Look reads who waits, and returns since when the first has, if somebody does.
func (q *Queues) Look(sockets []*listen.Socket, log *slog.Logger) (oldest time.Time, any bool) {
	if q.queues == nil {
		q.queues = newQueues(len(sockets))
	}
	q.queues.look(sockets, log)
	return q.queues.oldest()
}

// Refuse turns away those who have waited for hold, as of the last Look.
func (q *Queues) Refuse(sockets []*listen.Socket, hold time.Duration, log *slog.Logger) {
	q.queues.refuse(sockets, hold, log)
}

// Output is where a program's stdout and stderr lead.
type Output struct {
	streams streams
	pumps   pumps
	files   []outputFile
}

// OpenOutput opens them as a [spec.Service] names them.
func OpenOutput(stdout, stderr string) (*Output, error) {
	s := Service{spec: spec.Service{Stdout: stdout, Stderr: stderr}}
	streams, err := s.open()
	return &Output{streams: streams, files: streams.outputs()}, err
}

// Fresh reports whether the files among them are still what stands at their paths:
// logs are rotated.
func (o *Output) Fresh() bool {
	return !slices.ContainsFunc(o.files, func(f outputFile) bool { return !f.same() })
}

// Child lends the program's ends, until HandedOver.
func (o *Output) Child() (stdout, stderr *os.File) {
	stdio := o.streams.child()
	return stdio.Out, stdio.Err
}

// HandedOver closes the program's ends, once it has its copies.
func (o *Output) HandedOver() { o.streams.handedOver() }

// Copy copies what the program prints to the log.
func (o *Output) Copy(sink *output.Sink, service string, pid int) {
	o.pumps = o.streams.copy(sink, service, pid)
}

// Close waits until what the program printed is in the log. It has ended, or has
// never been.
func (o *Output) Close() {
	o.streams.handedOver()
	if o.pumps == nil {
		o.streams.close()
	}
	o.pumps.wait()
}
