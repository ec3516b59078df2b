package daemon

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"

	"activator/internal/config"
	"activator/internal/kernel/cgroup"
	"activator/internal/process"
	"activator/internal/sandbox"
	"activator/internal/seal"
	"activator/internal/spec"
)

// CheckOptions are what the command line says.
type CheckOptions struct {
	Paths   []string // files and folders of configuration
	Verbose bool     // write the effective configuration, as TOML that can be fed back
	Offline bool     // the text alone: nothing of the host is looked at
}

// Check finds in a configuration what [Run] would find before it opens anything, and changes
// nothing. If nothing is wrong, it writes to w a line for each service, or the effective
// configuration.
func Check(ctx context.Context, o CheckOptions, w io.Writer) error {
	sources, err := loadConfig(ctx, config.Load, o.Paths)
	if err != nil {
		return err
	}
	var text []byte
	if !o.Offline {
		sources = withoutAbsent(sources, func(conf spec.Service, address spec.Address) {
			text = fmt.Appendf(text, "# service %s without %s: this machine has no IPv6\n", conf.Name, address)
		})
		starter, err := process.NewStarter()
		if err != nil {
			return err
		}
		defer starter.Close()
		if _, err := newExamination(starter, seal.Trial, nil).planServices(ctx, sources, sources); err != nil {
			return err
		}
	}
	for i, source := range sources {
		conf := source.Service
		if !o.Offline {
			text = append(text, describeLimits(conf)...)
			for _, odd := range slices.Concat(findBeside(conf), findFIFOs(source)) {
				text = fmt.Appendf(text, "# service %s: %s\n", conf.Name, odd)
			}
		}
		if !o.Verbose {
			text = fmt.Appendf(text, "%s: service %s: %s, good\n", conf.File, conf.Name, formatCount(len(conf.Sockets), "socket"))
			continue
		}
		if i > 0 {
			text = append(text, '\n')
		}
		text = fmt.Appendf(text, "# service %s, from %s\n", conf.Name, conf.File)
		if !o.Offline {
			text = append(text, describeSeals(conf)...)
		}
		text = append(text, config.AppendTOML(nil, conf)...)
	}
	_, err = w.Write(text)
	return err
}

// formatCount writes a number of things.
func formatCount(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// describeLimits writes comments: which limits of a service no control group would keep here.
func describeLimits(conf spec.Service) (text []byte) {
	if conf.Resources == (spec.Resources{}) || conf.Container != nil {
		return nil
	}
	unkept, err := cgroup.Examine(conf.Resources)
	for _, limit := range listUnkept(&conf, unkept, err) {
		how := "is not kept here"
		if limit.key == "tasks_max" && keepsProcesses(&conf) {
			how = "is kept here by nproc alone"
		}
		text = fmt.Appendf(text, "# service %s: %s %s: %v\n", conf.Name, limit.key, how, limit.why)
	}
	return text
}

// listLesser says what a service leaves open that another would not.
func listLesser(conf spec.Service) []string {
	if conf.Container == nil {
		return process.ListLesser(conf.Process)
	}
	limited := slices.ContainsFunc(conf.Limits, func(l spec.Limit) bool { return l.Resource == "nproc" })
	if limited && os.Geteuid() == 0 && conf.User == "" {
		return []string{"the container's user is root, whom the limit nproc does not bind: options has --pids-limit, where the engine has control groups"}
	}
	return nil
}

// describeSeals writes comments: how each socket would be sealed here, and what the seal lacks.
func describeSeals(conf spec.Service) (text []byte) {
	open := seal.Decide(&conf, seal.Trial)
	for _, socket := range conf.Sockets {
		text = fmt.Appendf(text, "# sealed: %s: %s\n", socket.Address, seal.Describe(socket, conf))
	}
	for _, l := range open.Lacks {
		text = fmt.Appendf(text, "# open here: %s\n", l)
	}
	for _, l := range open.Lesser {
		text = fmt.Appendf(text, "# less than on a newer kernel: %s\n", l)
	}
	if found := sandbox.FindSocket(conf.Sandbox); found != "" && conf.Sandbox.Connect == "none" && conf.Container == nil {
		text = fmt.Appendf(text, "# open, whatever connect says: datagrams to unix sockets in what it mounts, as to %s: no filter sees their path\n", found)
	}
	for _, l := range listLesser(conf) {
		text = fmt.Appendf(text, "# less than elsewhere: %s\n", l)
	}
	return text
}
