package process

import (
	"context"
	"os"

	"activator/internal/sandbox"
)

// Engine is a container engine, which is started in place of a program: with our files and
// privileges, and in namespaces that are its user's own. It is kept by a reaper, which
// gets its monitor and the container too when the engine has ended: so nothing of it
// outlives us, at whichever moment we are killed.
type Engine interface {
	// Prepare is called before each start: it takes away what was left behind, and says
	// whose user and mount namespace are entered; nil: none. The caller closes it.
	Prepare(ctx context.Context) (process *os.File, err error)
	// Command is what to start, behind what. notify is the path of the socket that the container
	// reports to, "": none; names are those of its descriptors.
	Command(notify string, names []string) (argv []string, behind sandbox.Engine, err error)
	// Ended is called after each start that Prepare was called for; in order says that
	// the engine ended by itself, and had nothing to say of itself.
	Ended(inOrder bool)
}

// engineFailed is the least exit status that is not the container's alone, podman-run(1).
const engineFailed = 125
