package handover

import (
	"context"

	"activator/internal/process"
	"activator/internal/spec"
	"activator/internal/usernotif"
)

// answers are the answers to the system calls that a program's filter hands over.
type answers interface {
	// Serving is closed when the program listens at all its targets.
	Serving() <-chan struct{}
	// DescribeMissing says at which it does not.
	DescribeMissing() string
	end()
}

// unasked is a program whose filter hands over nothing.
type unasked struct{}

func (unasked) Serving() <-chan struct{} { return nil }
func (unasked) DescribeMissing() string  { return "" }
func (unasked) end()                     {}

// supervisor answers until its end.
type supervisor struct {
	*usernotif.Supervisor
	cancel context.CancelFunc
	gone   chan struct{}
}

func (s *supervisor) end() {
	s.cancel()
	<-s.gone
	_ = s.Close()
}

// answerCalls begins to answer the calls of the program, if its filter hands over any and they are not answered yet.
func (h *inherit) answerCalls(policy usernotif.Policy) answers {
	listener := h.child.TakeListener()
	if listener == nil {
		return h.answers
	}
	calls, err := usernotif.New(listener, policy)
	if err != nil {
		h.Log.Error("calls not answered", "pid", h.child.Pid(), "err", err)
		return unasked{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &supervisor{calls, cancel, make(chan struct{})}
	go func() {
		defer close(s.gone)
		if err := calls.Run(ctx); err != nil {
			h.Log.Error("calls not answered any more", "pid", h.child.Pid(), "err", err)
			_ = calls.Close() // then the kernel refuses them: nobody waits for us
		}
	}()
	return s
}

// newPolicy says how the program's calls are answered. It lends what is the child's.
func (h *inherit) newPolicy() usernotif.Policy {
	b := h.Spec.Sandbox
	p := usernotif.Policy{Netns: h.child.NetnsCookie(), Unix: b.Connect == "unix" || b.Connect == "any", IP: b.Connect == "any", Alone: b.Alone}
	p.Warn = func(text string) { h.Log.Warn("program "+text, "pid", h.child.Pid()) }
	p.Tell = func(f spec.Finding) { h.Tell(h.child.Pid(), f) }
	p.Refusal, p.Own = h.child.FindRefusal(), b.OwnNetwork()
	if h.Spec.Handover == spec.FDs {
		p.Handed = h.Spec.Sockets
	}
	if h.Spec.Reports() {
		p.Reports = append(p.Reports, usernotif.Report{Path: process.NotifyPath, Node: h.child.NotifyNode()})
	}
	if h.Spec.Syslog {
		p.Reports = append(p.Reports, usernotif.Report{Path: process.SyslogPath, Node: h.child.SyslogNode()})
	}
	p.Owners = h.child.Owners()
	if p.Engine = h.child.EngineNamespace(); p.Engine != 0 {
		p.Free = !b.Seal
	}
	return p
}
