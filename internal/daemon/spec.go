package daemon

import (
	"context"
	"slices"
	"strings"

	"activator/internal/config"
	"activator/internal/container"
	"activator/internal/spawn"
	"activator/internal/supervise"
)

// The environment of a service has these four by default and nothing else; HOME
// and USER are the business of whoever knows the service's user.
var environment = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"LANG=C.UTF-8",
}

// planned is a service's configuration, translated: nothing is left that could be
// wrong with it but what the kernel says.
type planned struct {
	source config.Source
	conf   config.Service
	spec   supervise.Spec
	sealing
}

func serviceSpec(conf config.Service, process spawn.Spec) supervise.Spec {
	return supervise.Spec{
		Limits: supervise.Limits{
			RestartDelay:    conf.RestartDelay,
			RestartMaxDelay: conf.RestartMaxDelay,
			Hold:            conf.Hold,
			StartTimeout:    conf.StartTimeout,
			StopTimeout:     conf.StopTimeout,
			IdleTimeout:     conf.IdleTimeout,
		},
		Process:    process,
		Warm:       conf.Warm && conf.Container == nil,
		StopSignal: conf.StopSignal,
		Stdout:     stdout(conf),
		Stderr:     conf.Stderr,
	}
}

// containerProcess starts a container engine in place of the program. The engine
// makes the sandbox.
func containerProcess(ctx context.Context, conf config.Service, process spawn.Spec) (spawn.Spec, error) {
	b := conf.Sandbox
	spec := container.Spec{
		Name: conf.Name, Engine: conf.Container.Engine, Image: conf.Container.Image,
		Options: conf.Container.Options, Command: conf.Container.Command,
		Network: b.Network, FDNames: process.FDNames, Env: conf.Environment, Dir: conf.WorkingDirectory,
		User: conf.User, Group: conf.Group, Umask: conf.Umask, Limits: conf.Limits,
		ReadOnly: b.ReadOnly, Writable: b.Writable, Tmpfs: b.Tmpfs,
		Capabilities: b.Capabilities, NewPrivs: b.NewPrivs, Init: b.Init,
	}
	store, err := container.Resolve(ctx, spec)
	if err != nil {
		return spawn.Spec{}, err
	}
	argv, err := spec.Argv(store)
	return spawn.Spec{
		Name: conf.Name, Argv: argv, Env: container.Environ(), Umask: 0o022,
		FDNames: process.FDNames, Notify: conf.Notify, Bare: true,
	}, err
}

func processSpec(conf config.Service) spawn.Spec {
	spec := spawn.Spec{
		Name:        conf.Name,
		Argv:        conf.Exec,
		Env:         withDefaults(conf.Environment),
		Dir:         conf.WorkingDirectory,
		Umask:       int(conf.Umask),
		Limits:      conf.Limits,
		User:        conf.User,
		Group:       conf.Group,
		Directories: conf.Directories,
		Notify:      conf.Notify,
		Sandbox:     conf.Sandbox.Sandbox,
	}
	// What has no socket of the host's has nothing to turn outward, and may do with its
	// own what it likes.
	spec.Sandbox.Seal = conf.Sandbox.Seal != "off" && conf.Handover != "proxy"
	spec.Sandbox.Bind = conf.Handover == "bind"
	spec.Handed = handed(conf)
	spec.FDNames = fdNames(conf)
	return spec
}

// withDefaults adds the defaults whose names env has not: of two entries with
// one name getenv(3) finds the first.
func withDefaults(env []string) []string {
	all := append([]string{}, env...)
	for _, entry := range environment {
		name, _, _ := strings.Cut(entry, "=")
		if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") }) {
			all = append(all, entry)
		}
	}
	return all
}
