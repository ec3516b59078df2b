// Command intruder is a service that has been taken over: it is started with
// inherited sockets like any other, and tries to get out. Each probe is one way,
// and prints what it achieved as a line of JSON.
//
//	intruder list               the probes, as JSON
//	intruder serve              one probe for one client: see package wire
//	intruder bind               the same with sockets that it binds itself
//	intruder echo               answers each datagram of the socket it has inherited with itself
//	intruder pose DIR NAME SERVER TEXT SECONDS is a client with that name, in a world of its own where DIR is empty
//	intruder low-port           binds port 81 of its network
//	intruder identify PATH HOST listens at a path, and connects to another
//	intruder misreport ROOT TEXT reports, with another root
//	intruder smuggle TEXT        stores descriptors, and uses what it has been given of them
//	intruder exhaust WHAT MOST  takes all it gets of what its user has one number of
//	intruder mislead PATH HOST  leads the activator from its own path to a socket of the host's
//	intruder [PROBE...]         these or all, with the request from $INTRUDER
//
// Its system calls are raw: no probe depends on the poller of the Go runtime. It
// does no harm: what it makes it removes, and every loop and wait is bounded.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"time"

	"activator/test/escape/wire"

	"golang.org/x/sys/unix"
)

// Bounds of one wait and of one run, in seconds.
const (
	waitTimeout = 10
	lifetime    = 100
)

// probe is one way out. run returns what it achieved, or the step that failed.
type probe struct {
	wire.Probe
	run func(*mission) (how string, err error)
}

func probes() []probe {
	return slices.Concat(tcpProbes(), udpProbes(), ringProbes(), unixProbes(), clientProbes(), poisonProbes(), portProbes(), fileProbes(), outputProbes(),
		mountProbes(), processProbes(), kernelProbes(), limitProbes())
}

// The first thread is the main goroutine's: setns, unshare and keyrings are a
// thread's own. The runtime's signal to preempt a goroutine (SIGURG) would end a
// wait in the kernel with EINTR, which it does on a slow machine.
func init() {
	runtime.LockOSThread()
	var urgent unix.Sigset_t
	urgent.Val[0] = 1 << (unix.SIGURG - 1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &urgent, nil); err != nil {
		panic(err)
	}
}

func main() {
	if len(os.Args) > 1 && role(os.Args[1], os.Args[2:]) {
		return
	}
	go func() { // no timer: a thread of its own that sleeps
		time := unix.Timespec{Sec: lifetime}
		for unix.Nanosleep(&time, &time) == unix.EINTR {
		}
		os.Exit(3)
	}()
	m := &mission{sockets: inherited(), control: -1}
	if len(os.Args) > 1 && os.Args[1] == "bind" {
		m.sockets = bindAll()
		os.Exit(m.serve())
	}
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		os.Exit(m.serve())
	}
	if len(os.Args) > 1 && os.Args[1] == "stdio" { // the connection is stdin
		m.control = 0
		os.Exit(m.obey())
	}
	if text := os.Getenv("INTRUDER"); text != "" {
		if err := json.Unmarshal([]byte(text), &m.Request); err != nil {
			fmt.Fprintln(os.Stderr, "INTRUDER:", err)
			os.Exit(2)
		}
	}
	for _, p := range probes() {
		if len(os.Args) == 1 || slices.Contains(os.Args[1:], p.Name) {
			_ = json.NewEncoder(os.Stdout).Encode(m.try(p))
		}
	}
}

// role plays one of the parts that are not the intruder's own.
func role(name string, args []string) bool {
	switch name {
	case "list":
		var all []wire.Probe
		for _, p := range probes() {
			all = append(all, p.Probe)
		}
		_ = json.NewEncoder(os.Stdout).Encode(all)
	case "sleep":
		time.Sleep(lifetime * time.Second)
	case "starter":
		startAndWait(args)
	case "with-key":
		withKey(args)
	case "victim":
		victim()
	case "mounter":
		mountInside()
	case "survivor":
		survive(len(args) > 0)
	case "echo":
		echo()
	case "honest":
		honest(args)
	case "pose":
		pose(args[0], args[1], args[2], args[3], args[4])
	case "low-port":
		lowPort()
	case "identify":
		identify(args[0], args[1])
	case "misreport":
		misreport(args[0], args[1])
	case "smuggle":
		smuggle(args[0])
	case "exhaust":
		most, _ := strconv.Atoi(args[1])
		exhaust(args[0], most)
	case "mislead":
		mislead(args[0], args[1])
	default:
		return false
	}
	return true
}

// try runs one probe.
func (m *mission) try(p probe) *wire.Result {
	how, err := p.run(m)
	if err != nil {
		how = err.Error()
	}
	return &wire.Result{Probe: p.Name, Achieved: err == nil, How: how, Proof: m.proof}
}

// stepError is a step that failed.
type stepError struct {
	step string
	err  error
}

func (e *stepError) Error() string {
	var errno unix.Errno
	if errors.As(e.err, &errno) {
		return e.step + ": " + name(errno)
	}
	return e.step + ": " + e.err.Error()
}

func (e *stepError) Unwrap() error { return e.err }

func name(errno unix.Errno) string {
	if n := unix.ErrnoName(errno); n != "" {
		return n
	}
	return fmt.Sprintf("errno %d", int(errno))
}

// at names the step at which err came; nil stays nil.
func at(step string, err error) error {
	if err == nil {
		return nil
	}
	return &stepError{step, err}
}
