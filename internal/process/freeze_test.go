package process

import (
	"strings"
	"syscall"
	"testing"

	"activator/internal/kernel/proc"
)

// While still is asked, the process stands still; it goes on unless it was stopped.
func TestStopIf(t *testing.T) {
	for _, test := range []struct {
		argv   []string
		killed bool
		exit   Exit
	}{
		{helperSpec("term").Argv, false, Exit{Code: 7}},
		{[]string{"sh", "-c", "echo ready; sleep 1000; :"}, true, Exit{Signal: syscall.SIGKILL}},
	} {
		process := helperSpec()
		process.Argv = test.argv
		p := start(t, process)
		p.line(t)
		for _, still := range []bool{false, true} {
			asked := false
			stop := func() (stopped, killed bool, err error) {
				return p.StopIf(syscall.SIGTERM, func() bool {
					asked = true
					if state := stateOf(t, p.Pid()); !strings.HasPrefix(state, "T") {
						t.Errorf("it is in state %s", state)
					}
					return still
				})
			}
			stopped, killed, err := stop()
			for !asked && err == nil { // on a slow machine it does not stand still in time
				stopped, killed, err = stop()
			}
			if stopped != still || killed != (still && test.killed) || err != nil {
				t.Fatalf("StopIf: %v, %v, %v", stopped, killed, err)
			}
			if state := stateOf(t, p.Pid()); !still && strings.HasPrefix(state, "T") {
				t.Errorf("it is in state %s still", state)
			}
		}
		if exit, err := p.Wait(); err != nil || exit != test.exit {
			t.Errorf("it ended with %v, %v; want %v", exit, err, test.exit)
		}
	}
}

// Somebody who has stopped a service does not want it to go on, or to be stopped.
func TestStopIfStoppedAlready(t *testing.T) {
	p := start(t, helperSpec("sleep"))
	p.line(t)
	if err := syscall.Kill(p.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for !strings.HasPrefix(stateOf(t, p.Pid()), "T") {
	}
	stopped, _, err := p.StopIf(syscall.SIGTERM, func() bool { return true })
	if stopped || err != nil {
		t.Errorf("StopIf: %v, %v", stopped, err)
	}
	if state := stateOf(t, p.Pid()); !strings.HasPrefix(state, "T") {
		t.Errorf("it is in state %s", state)
	}
}

func stateOf(t *testing.T, pid int) string {
	t.Helper()
	status, err := proc.ReadStatus(pid)
	if err != nil {
		t.Fatal(err)
	}
	return status["State"]
}
