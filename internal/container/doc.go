// Package container turns a [container] table into a run of a container engine
// (Podman), so that the same sockets reach a container instead of our own
// sandbox:
//
//	engine, err := container.Resolve(ctx, spec)  // for process, Spec.Engine: image there, and the name free?
//
// The container is an ordinary one in the user's own store, with the service's name and a label
// of ours: `podman ps`, `logs`, `exec` and `stop` know it. A container with our label that was
// left behind is replaced. Any other one is left alone.
package container
