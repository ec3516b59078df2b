package measure

import (
	"fmt"

	"activator/bench/report"
	"activator/bench/stand"
)

var restrictions = Measurement{
	Name:  "restrictions",
	Title: "What the restrictions cost a system call",
	How: `The Go web server of *Once it runs* makes the same system calls again and again, and says how long it was on the processor
for one: the least of 25 means of 1,000 calls. Here is what is left between the program and the kernel, and what of it each
restriction costs. *getppid* is a call that the filter always allows, which the kernel knows without running it; the flags of *send*
and *open* are looked at. What is opened passes Landlock, where only writing has rules; with a folder of the host's that it may
write to (or, until stdout became a pipe, a file as stdout) reading has some too, and Landlock looks them up on the way from
the file to the root.`,
	Run: runRestrictions,
}

const (
	noRestrictions  = "no filter, no Landlock (seal = \"off\", syscalls and connect = \"any\")"
	noLandlockFiles = "no Landlock for files (syscalls = \"any\")"
	noSeal          = "no seal (seal = \"off\")"
	allRestrictions = "activator, as by default"
	folderToWriteTo = "with a folder to write to"
)

// noFilter is a sandbox without a filter and without Landlock.
const noFilter = "seal = \"off\"\nsyscalls = \"any\"\nconnect = \"any\"\n"

var restrictionCases = []server{
	{goAlone, false, goServers[0].open},
	{noRestrictions, true, goServerIn(noFilter)},
	{noLandlockFiles, true, goServerIn("syscalls = \"any\"\n")},
	{noSeal, true, goServerIn("seal = \"off\"\n")},
	{allRestrictions, true, goServerIn("")},
	{folderToWriteTo, true, goServerWith},
}

// goServerIn is the web server in a sandbox of ours, with more in its configuration.
func goServerIn(sandbox string) opener {
	return func(b *Bench) (int, []*stand.Process, error) { return goServer(b, sandbox) }
}

func goServer(b *Bench, sandbox string) (int, []*stand.Process, error) {
	port := stand.Port()
	a, err := b.Activator(stand.Self, fmt.Sprintf("[[socket]]\nlisten = [\"tcp://127.0.0.1:%d\"]\n[service]\nexec = [%q, \"serve\"]\n[sandbox]\n%s",
		port, b.Program("bench"), sandbox))
	return port, []*stand.Process{a}, err
}

// goServerWith is the same with a folder of the host's that it may write to.
func goServerWith(b *Bench) (int, []*stand.Process, error) {
	folder, err := b.Folder(stand.Self)
	if err != nil {
		return 0, nil, err
	}
	return goServer(b, fmt.Sprintf("writable = [%q]\n", folder))
}

// caller is a server that is asked for system calls.
type caller struct {
	port      int
	processes []*stand.Process
	key       string
}

func (c *caller) close()                    { stop(c.processes...) }
func (c *caller) measure() (float64, error) { return stand.AskCalls(c.port, c.key) }

func runRestrictions(b *Bench, p *report.Part) error {
	for _, call := range stand.Calls {
		b.Progress("  %s", call.What)
		var all []contender
		for _, s := range restrictionCases {
			all = append(all, contender{s.name, s.ours, func(b *Bench) (bout, error) {
				port, processes, err := s.start(b, true)
				if err != nil {
					stop(processes...)
					return nil, err
				}
				return &caller{port, processes, call.Key}, nil
			}})
		}
		t := report.Table{Title: call.What, Unit: "ns", Base: goAlone, Picture: report.Bars}
		t.Rows = b.alternate(b.rounds(9), all)
		p.Tables = append(p.Tables, t)
	}
	return nil
}
