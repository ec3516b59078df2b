package doctor

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"text/tabwriter"
	"time"

	"activator/internal/kernel/proc"
	"activator/internal/listen"
	"activator/internal/process"
	"activator/internal/sandbox"
	"activator/internal/seal/udpfilter"
	"activator/internal/spec"
)

// trialTimeout bounds the trial of the default sandbox.
const trialTimeout = 10 * time.Second

// finding is one line of the report.
type finding struct {
	name   string
	ok     bool
	detail string // what was seen
	needs  string // what its lack costs
	cure   string // how to get it
}

// Report writes what this kernel and this user can do, and reports whether the
// default sandbox works: it is tried, not guessed.
func Report(w io.Writer) bool {
	fmt.Fprintf(w, "%s, as %s\n\n", describeKernel(), describeUser())
	works := trySandbox()
	findings := append([]finding{works}, listAbilities()...)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range findings {
		mark := "yes"
		if !f.ok {
			mark = "NO"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", mark, f.name, f.detail)
	}
	_ = table.Flush() // an error of w is its owner's
	writeLacks(w, findings)
	return works.ok
}

// writeLacks writes what each missing ability costs and how to get it.
func writeLacks(w io.Writer, findings []finding) {
	for _, f := range findings {
		if f.ok {
			continue
		}
		fmt.Fprintf(w, "\n%s: %s\n", f.name, f.detail)
		if f.needs != "" {
			fmt.Fprintf(w, "  it costs:  %s\n", f.needs)
		}
		if f.cure != "" {
			fmt.Fprintf(w, "  to get it: %s\n", f.cure)
		}
	}
}

func describeUser() string {
	if os.Getuid() == 0 {
		return "root"
	}
	return fmt.Sprintf("user %d", os.Getuid())
}

func describeKernel() string {
	return "Linux " + proc.KernelRelease()
}

// listAbilities asks each room for its own abilities.
func listAbilities() []finding {
	var all []finding
	for _, a := range sandbox.ListAbilities() {
		all = append(all, finding{a.Name, a.OK, a.Detail, a.Needs, a.Cure})
	}
	for _, a := range listen.ProbeAbilities() {
		all = append(all, finding{a.Name, a.OK, a.Detail, a.Needs, a.Cure})
	}
	return append(all, checkSeal(), checkUDPFilter(), checkEngine())
}

// checkSeal finds what the process's part of the default seal lacks here.
func checkSeal() finding {
	f := finding{name: "seal", ok: true, detail: "what services inherit cannot be turned outward",
		needs: "services that have such a socket start only with seal = \"best-effort\"", cure: "a kernel configured with what is missing"}
	if lacks := sandbox.RunningKernel().SealLacks(); len(lacks) > 0 {
		f.ok, f.detail = false, strings.Join(lacks, "; ")
	}
	return f
}

// checkUDPFilter finds how UDP sockets are sealed.
func checkUDPFilter() finding {
	f := finding{name: "UDP sockets that only answer", needs: "the default works; services do not have the host's UDP sockets: a relay carries their datagrams, which takes some of the speed"}
	f.ok, f.detail, f.cure = udpfilter.Ability()
	return f
}

// trySandbox runs our own binary in the default sandbox, as a service would run.
func trySandbox() finding {
	f := finding{
		name:  "default sandbox",
		needs: "services with the default [sandbox] do not start",
	}
	ctx, cancel := context.WithTimeout(context.Background(), trialTimeout)
	defer cancel()
	if err := runInSandbox(ctx); err != nil {
		f.detail = err.Error()
		f.cure = "see the first lack below; everything else of the sandbox rests on it"
		return f
	}
	f.ok, f.detail = true, "a program ran in it"
	return f
}

func runInSandbox(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	starter, err := process.NewStarter()
	if err != nil {
		return err
	}
	defer starter.Close()
	p, err := starter.Prepare(ctx, spec.Process{Name: "doctor", Argv: []string{self, "version"}, Sandbox: spec.Sandbox{Seal: true}}, process.Inputs{})
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }()
	if err := p.Go(ctx); err != nil {
		return err
	}
	exit, err := p.Wait()
	if err != nil {
		return err
	}
	if !exit.OK() {
		return fmt.Errorf("a program in it ended with %v", exit)
	}
	return nil
}

// checkEngine finds whether [container] can work.
func checkEngine() finding {
	f := finding{name: "podman", needs: "services with a [container] do not start", cure: "install it: apt-get install podman"}
	path, err := exec.LookPath("podman")
	if err != nil {
		f.detail = "not in PATH"
		return f
	}
	f.ok, f.detail = true, path
	return f
}
