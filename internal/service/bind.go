package service

import (
	"os"

	"activator/internal/process"
	"activator/internal/spec"
	"activator/internal/usernotif"
)

// inherited are the files that the program starts with.
func (s *Service) inherited(files []*os.File) []*os.File {
	if s.spec.Inherits() {
		return files
	}
	return nil
}

// policy says how the program's calls are answered. Lends files and what is the child's.
func (s *Service) policy(child *process.Process, files []*os.File) usernotif.Policy {
	b := s.spec.Sandbox
	p := usernotif.Policy{Netns: child.NetnsCookie(), Unix: b.Connect == "unix" || b.Connect == "any", IP: b.Connect == "any", Alone: b.Alone}
	if s.spec.Notify {
		p.Notify, p.NotifyNode = process.NotifyPath, child.NotifyNode()
	}
	if p.Engine = child.EngineNamespace(); p.Engine != 0 {
		p.Free = !b.Seal
	}
	if s.spec.Handover != spec.Bind {
		return p
	}
	p.Unsealed, p.Free = !b.Seal, !b.Seal && b.Connect != "unix"
	p.Warn = func(text string) { s.log.Warn("program bound: " + text) }
	for i, socket := range s.spec.Sockets {
		p.Targets = append(p.Targets, usernotif.Target{Address: socket.Target, File: files[i]})
	}
	return p
}

// awaitServing reports when the program listens at all its targets, until the function
// it returns is called. A program that says so itself is believed instead.
func (s *Service) awaitServing(p *instance, calls *usernotif.Supervisor) (end func()) {
	if calls == nil || s.spec.Handover != spec.Bind || s.spec.Notify {
		return func() {}
	}
	done, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		select {
		case <-calls.Serving():
			s.tell(report{of: p, serving: true})
		case <-done:
		}
	}()
	return func() {
		close(done)
		<-gone
	}
}

// sayMissing says why the program is not up, of one whose time is over.
func (s *Service) sayMissing() {
	if s.state != aborting || s.process == nil {
		return
	}
	missing := s.process.carrier.missing()
	if s.process.answers != nil && s.spec.Handover != spec.Proxy {
		missing = s.process.answers.Missing()
	}
	if missing != "" {
		s.log.Error("service not started: "+missing, "pid", s.process.pid())
	}
}
