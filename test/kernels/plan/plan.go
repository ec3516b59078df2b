// Package plan is what the host and the guest of a booted kernel say to each
// other: the host writes a [Plan] into the guest's first file system, the guest
// writes [Record]s to its console, a line each.
package plan

import (
	"encoding/json"
	"strings"
	"time"
)

// File is where the plan is in the guest.
const File = "/plan.json"

// Home is the folder of the guest that stands for the checkout.
const Home = "/activator"

// The users that run everything.
const (
	Root = "root"
	User = "user"
)

// The steps that a guest takes, in this order.
const (
	Doctor   = "doctor"
	Check    = "check"
	Lines    = "lines"
	Bind     = "bind"
	Proxy    = "proxy"
	Idle     = "idle stop"
	Kill     = "kill -9"
	Escape   = "escape"
	Packages = "packages"
)

// Plan is what a guest does.
type Plan struct {
	Sysctl       map[string]string // path below /proc/sys -> value
	ProcHidden   bool              // /proc is mounted with hidepid=2
	TmpNoExec    bool              // /tmp is mounted noexec
	Steps        []string
	Probes       string              // of the escape suite: "sockets" or "all"
	SocatTimeout time.Duration       // of the client of the five lines, after its half-close
	Lines        int                 // of the README's five lines, how many can answer here
	Refused      map[string][]string // user -> the words with which a start is refused
	Packages     []string            // whose tests run, paths from the checkout
}

// Record is what came of a step.
type Record struct {
	User, Step string
	Got, Want  int      // lines answered, probes stopped, tests passed; as the step counts
	Out        int      // probes that got out
	Open       []string // probes of what is not promised on this kernel, which got out
	Again      []string // tests that failed beside others, and were run once more alone
	Skipped    int      // tests
	Said       []string // what was wrong; empty: the step is as it should be
	Seconds    float64
}

// OK reports whether the step is as it should be.
func (r Record) OK() bool { return len(r.Said) == 0 && r.Got == r.Want && r.Out == 0 }

// mark begins a record's line. A guest that is in the middle of a step prints alive
// now and then, and over when it has done all that it was to do.
const (
	mark  = "@@record "
	alive = "@@alive"
	over  = "@@over"
)

// Format returns the record as a line of the console.
func (r Record) Format() string {
	text, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings and numbers
	}
	return mark + string(text)
}

// Parse reads a line of the console. The kernel may have begun it with words of
// its own.
func Parse(line string) (r Record, ok bool) {
	_, text, found := strings.Cut(line, mark)
	return r, found && json.Unmarshal([]byte(text), &r) == nil
}

// Alive is a line that says only that the guest goes on.
func Alive() string { return alive }

// Over is the last line.
func Over() string { return over }

// IsOver reports whether a line is the last one.
func IsOver(line string) bool { return strings.Contains(line, over) }

// SaysRefusal reports whether a step is taken where a start is refused: it then
// says so.
func SaysRefusal(step string) bool { return step == Doctor || step == Check || step == Lines }
