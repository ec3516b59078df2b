// Package container turns a [container] table into a run of a container engine
// (Podman), so that the same sockets reach a container instead of our own
// sandbox, and leaves nothing of it behind:
//
//	store, err := container.Resolve(ctx, spec)      // engine and image are there?
//	argv, err := spec.Argv(store)                   // for spawn, with Spec.Bare
//	if container.IsStage() { container.Stage() }    // in main, after spawn's
//
// The engine runs in a pid and a mount namespace of its own (as an ordinary user
// also in a user namespace with the subordinate ids). Its first process is ours:
// when that ends, with the activator at the latest, the kernel ends the engine,
// its monitor and the container. The images are the user's own, read in place;
// everything else the engine writes (containers, locks, its database) is on a
// tmpfs that vanishes with the namespace. So `podman ps` outside shows nothing
// of it, and no crash leaves anything that the next start would trip over.
package container
