// Package container turns a [container] table into a run of a container engine
// (Podman), so that the same sockets reach a container instead of our own
// sandbox:
//
//	engine, err := container.Resolve(ctx, spec)  // for process, Spec.Engine: image there, and the name free?
//
// The container is in the user's own store, by the service's name and with a label of
// ours: an ordinary one, which `podman ps`, `logs`, `exec` and `stop` know. What bears
// our label and was left behind is replaced, anybody else's is left alone.
package container
