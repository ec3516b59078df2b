package daemon

import (
	"context"

	"activator/internal/config"
	"activator/internal/container"
	"activator/internal/seal"
	"activator/internal/spec"
)

// planned is a service that nothing is wrong with but what the kernel says.
type planned struct {
	source config.Source // as it is written
	spec   spec.Service  // as it runs here: the seals, the user's id, and the engine in place of a container
	open   seal.Openings
	engine *container.Engine // of a container; nil: none
}

// containerProcess starts a container engine in place of the program. The engine
// makes the sandbox, but for the seal.
func containerProcess(ctx context.Context, s spec.Service) (spec.Process, *container.Engine, error) {
	b := s.Sandbox
	engine, err := container.Resolve(ctx, s)
	return spec.Process{
		Name: s.Name, Argv: []string{s.Container.Engine}, Env: container.EngineEnviron(), Umask: 0o022,
		FDNames: s.FDNames, Notify: s.Notify, Watchdog: s.Watchdog, StoreMax: s.StoreMax,
		Sandbox: spec.Sandbox{Seal: b.Seal, Connect: b.Connect, Alone: b.Alone},
	}, engine, err
}
