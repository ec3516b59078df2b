package daemon

import (
	"fmt"
	"slices"
	"strings"

	"activator/internal/config"
	"activator/internal/spawn"
	"activator/internal/supervise"
)

// The environment of a service has these four by default and nothing else; HOME
// and USER are the business of whoever knows the service's user.
var environment = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"LANG=C.UTF-8",
}

// translated is a service as supervise wants it, and what there is to say about
// it at start.
type translated struct {
	supervise.Spec
	warnings []string
}

// serviceSpec translates a service's configuration.
func serviceSpec(conf config.Service) (translated, error) {
	t := translated{Spec: supervise.Spec{
		Limits: supervise.Limits{
			RestartDelay:    conf.RestartDelay,
			RestartMaxDelay: conf.RestartMaxDelay,
			Hold:            conf.Hold,
			StartTimeout:    conf.StartTimeout,
			StopTimeout:     conf.StopTimeout,
		},
		Process:    processSpec(conf),
		StopSignal: conf.StopSignal,
		Stdout:     conf.Stdout,
		Stderr:     conf.Stderr,
	}}
	if conf.Container != nil {
		return t, fmt.Errorf("container: not yet")
	}
	if conf.Sandbox.Network == "host" {
		t.warnings = append(t.warnings, "service shares the host's network: network = \"host\"")
	}
	return t, nil
}

func processSpec(conf config.Service) spawn.Spec {
	spec := spawn.Spec{
		Name:    conf.Name,
		Argv:    conf.Exec,
		Env:     withDefaults(conf.Environment),
		Dir:     conf.WorkingDirectory,
		Umask:   int(conf.Umask),
		User:    conf.User,
		Group:   conf.Group,
		Notify:  conf.Notify,
		Sandbox: conf.Sandbox.Spec,
	}
	for _, l := range conf.Limits {
		spec.Limits = append(spec.Limits, spawn.Limit(l))
	}
	for _, d := range conf.Directories {
		spec.Directories = append(spec.Directories, spawn.Directory(d))
	}
	for _, s := range conf.Sockets {
		spec.FDNames = append(spec.FDNames, s.Name)
	}
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
