package process

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"activator/internal/sandbox"
)

// Engine is a container engine, which is started in place of a program: with our files and
// privileges, and in namespaces that are its user's own. It is kept by a reaper, to whom
// come its monitor and the container too when the engine has ended: so nothing of it
// outlives us, at whichever moment we are killed.
type Engine interface {
	// Prepare is called before each start: it takes away what was left behind, and says
	// whose user and mount namespace are entered; nil: nobody's. The caller closes it.
	Prepare(ctx context.Context) (process *os.File, err error)
	// Command is what to start, behind what. notify is the path of the socket that the container
	// reports to, "": none.
	Command(notify string) (argv []string, walls sandbox.Engine, err error)
	// Ended is called after each start that Prepare was called for; in order says that
	// the engine ended by itself, and had nothing to say of itself.
	Ended(inOrder bool)
}

// engineFailed is the least exit status that is not the container's alone, podman-run(1).
const engineFailed = 125

// askEngine asks the engine what to start.
func (b *preparation) askEngine() error {
	if b.engine == nil {
		return nil
	}
	path := ""
	if b.notify != nil {
		path = b.notify.path
		// The folder that it stands in is closed to everybody else; the user inside may be
		// anybody.
		if err := os.Chmod(path, 0o777); err != nil {
			return &StepError{Step: "notify", Path: path, Errno: errnoOf(err)}
		}
	}
	argv, walls, err := b.engine.Command(path)
	if err != nil {
		return err
	}
	b.plan.Argv, b.plan.Engine = argv, true
	b.restrictions = walls.NewPlan()
	return nil
}

// mountNamespace is the number of a process's.
func mountNamespace(pid int) (uint64, error) {
	var stat unix.Stat_t
	path := fmt.Sprintf("/proc/%d/ns/mnt", pid)
	if err := unix.Stat(path, &stat); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return stat.Ino, nil
}

// EngineNamespace is the number of the mount namespace in which an engine works, and no
// container of its; 0 of another process.
func (p *Process) EngineNamespace() uint64 { return p.namespace }
