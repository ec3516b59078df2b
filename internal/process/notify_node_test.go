package process

import (
	"testing"
	"time"
)

// What a service reports to is opened before the program runs, also where the process has
// its client already and a slow activator: the program can put another thing there,
// chroot(2), or be gone.
func TestNodeBeforeProgram(t *testing.T) {
	defer func() { beforeNodes = func() {} }()
	beforeNodes = func() { time.Sleep(300 * time.Millisecond) } // a program that does not wait has ended by then
	starter := starterFor()
	defer starter.Close()
	process := helperSpec("exit", "0")
	process.Notify, process.Sandbox.Seal = true, true
	p, err := starter.Prepare(t.Context(), process, Inputs{Client: ClientWaiting})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.NotifyNode() == nil {
		t.Error("nobody answers for where it reports: the test proves nothing")
	}
	if listener := p.TakeListener(); listener != nil {
		defer listener.Close()
	}
	if err := p.Go(t.Context()); err != nil {
		t.Fatal(err)
	}
	if exit, err := p.Wait(); err != nil || !exit.OK() {
		t.Errorf("%v, %v", exit, err)
	}
}
