package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"activator/internal/kernel/proc"
	"activator/internal/listen"
	"activator/internal/process"
	"activator/internal/sandbox"
	"activator/internal/seal/sockfilter"
	"activator/internal/spec"
)

// trialTimeout bounds the trial of the default sandbox.
const trialTimeout = 10 * time.Second

// Report writes what this kernel and this user can do, and reports whether the
// default sandbox works: it is tried, not guessed.
func Report(w io.Writer) bool {
	fmt.Fprintf(w, "%s, as %s\n\n", describeKernel(), describeUser())
	works := trySandbox()
	findings := append([]spec.Ability{works}, listAbilities()...)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range findings {
		mark := "yes"
		if !f.OK {
			mark = "NO"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", mark, f.Name, f.Detail)
	}
	_ = table.Flush() // an error of w is its owner's
	writeLacks(w, findings)
	return works.OK
}

// writeLacks writes what each missing ability costs and how to get it.
func writeLacks(w io.Writer, findings []spec.Ability) {
	for _, f := range findings {
		if f.OK {
			continue
		}
		fmt.Fprintf(w, "\n%s: %s\n", f.Name, f.Detail)
		if f.Needs != "" {
			fmt.Fprintf(w, "  it costs:  %s\n", f.Needs)
		}
		if f.Cure != "" {
			fmt.Fprintf(w, "  to get it: %s\n", f.Cure)
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
func listAbilities() []spec.Ability {
	return append(slices.Concat(sandbox.ListAbilities(), listen.ProbeAbilities()), checkSeal(), checkUDPFilter(), checkListenerFilter(), checkEngine())
}

// checkSeal finds what the process's part of the default seal lacks here.
func checkSeal() spec.Ability {
	f := spec.Ability{Name: "seal", OK: true, Detail: "what services inherit cannot be turned outward",
		Needs: "services that have such a socket start only with seal = \"best-effort\"", Cure: "a kernel configured with what is missing"}
	if lacks := sandbox.RunningKernel().SealLacks(); len(lacks) > 0 {
		f.OK, f.Detail = false, strings.Join(lacks, "; ")
	}
	return f
}

// checkUDPFilter finds how UDP sockets are sealed.
func checkUDPFilter() spec.Ability {
	f := spec.Ability{Name: "UDP sockets that only answer", Needs: "the default works; services do not have the host's UDP sockets: a relay carries their datagrams, which takes some of the speed"}
	f.OK, f.Detail, f.Cure = sockfilter.Ability()
	return f
}

// checkListenerFilter finds how TCP listeners are sealed.
func checkListenerFilter() spec.Ability {
	f := spec.Ability{Name: "TCP listeners that only accept", Needs: "the default works: the activator itself sets the socket options that could harm waiting clients, so such a call takes longer"}
	f.OK, f.Detail, f.Cure = sockfilter.ListenerAbility()
	return f
}

// trySandbox runs our own binary in the default sandbox, as a service would run.
func trySandbox() spec.Ability {
	f := spec.Ability{
		Name:  "default sandbox",
		Needs: "services with the default [sandbox] do not start",
	}
	ctx, cancel := context.WithTimeout(context.Background(), trialTimeout)
	defer cancel()
	if err := runInSandbox(ctx); err != nil {
		f.Detail, f.Cure = err.Error(), "see what else is missing below"
		var refused *sandbox.StepError
		if errors.As(err, &refused) && refused.Cure != "" {
			f.Cure = refused.Cure
			without := *refused
			without.Cure = ""
			f.Detail = without.Error()
		}
		return f
	}
	f.OK, f.Detail = true, "a program ran in it"
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
func checkEngine() spec.Ability {
	f := spec.Ability{Name: "podman", Needs: "services with a [container] do not start", Cure: "install it: apt-get install podman"}
	path, err := exec.LookPath("podman")
	if err != nil {
		f.Detail = "not in PATH"
		return f
	}
	f.OK, f.Detail = true, path
	return f
}
