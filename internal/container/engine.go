package container

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/access"
	"activator/internal/sandbox"
	"activator/internal/spec"
)

// Engine runs the containers of one service, one after the other. Package process starts it in
// place of a program.
type Engine struct {
	of service

	mu     sync.Mutex
	left   bool   // a container may have been left behind
	folder string // of the start that is under way, for its sources; "": none
}

// clearTimeout bounds the clean-up after a container's end.
const clearTimeout = 30 * time.Second

// Clear removes the container that was left behind, if there is one.
func (e *Engine) Clear(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.left {
		return nil
	}
	err := e.of.removeLeft(ctx)
	e.left = err != nil
	return err
}

// Prepare clears, and returns the process whose user and mount namespaces the engine enters; nil
// for root's.
func (e *Engine) Prepare(ctx context.Context) (*os.File, error) {
	if err := e.Clear(ctx); err != nil {
		return nil, err
	}
	e.mu.Lock()
	e.left = true
	e.mu.Unlock()
	if os.Geteuid() == 0 {
		return nil, nil
	}
	return pauseProcess(ctx, e.of.Container.Engine)
}

// Command returns the engine's command line and its restrictions.
func (e *Engine) Command(notify string, names []string) ([]string, sandbox.Engine, error) {
	s := e.of
	behind := sandbox.Engine{Seal: s.Sandbox.Seal, Names: s.Sandbox.Names, Internet: s.InternetSockets(), Withhold: s.Sandbox.Withhold, NewPrivs: s.Sandbox.NewPrivs, Cgroup2: isHybrid()}
	if err := s.checkOptions(); err != nil {
		return nil, behind, err
	}
	var err error
	if behind.Sources, err = s.listSources(); err != nil {
		return nil, behind, err
	}
	if len(behind.Sources) > 0 {
		if behind.Folder, err = os.MkdirTemp("", "activator-sources-"); err != nil {
			return nil, behind, err
		}
		e.mu.Lock()
		e.folder = behind.Folder
		e.mu.Unlock()
	}
	argv := append([]string{s.Container.Engine}, s.runOptions(behind, names)...)
	for _, resource := range s.unsetLimits() {
		l, err := ownLimit(resource)
		if err != nil {
			return nil, behind, err
		}
		argv = append(argv, l)
	}
	if notify != "" {
		argv = append(argv, "--volume="+notify+":"+NotifyPath+":rw", "--env=NOTIFY_SOCKET="+NotifyPath)
	}
	if s.Watchdog > 0 { // without WATCHDOG_PID: which number the program has inside is up to options
		argv = append(argv, "--env=WATCHDOG_USEC="+strconv.FormatInt(s.Watchdog.Microseconds(), 10))
	}
	argv = append(argv, s.Container.Options...)
	return append(argv, s.imageAndCommand()...), behind, nil
}

// NotifyPath is the path, in a container, of the socket that it reports to.
const NotifyPath = "/run/.notify"

// Ended cleans up if the engine has not done so itself.
func (e *Engine) Ended(inOrder bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.folder != "" {
		_ = os.Remove(e.folder)
		e.folder = ""
	}
	if !inOrder {
		ctx, cancel := context.WithTimeout(context.Background(), clearTimeout)
		defer cancel()
		inOrder = e.of.removeLeft(ctx) == nil
	}
	e.left = !inOrder
}

// isHybrid reports whether the host has controllers in both versions of control groups. crun
// refuses that, so the engine is then shown only one version.
func isHybrid() bool {
	var kind unix.Statfs_t
	return unix.Statfs("/sys/fs/cgroup/unified", &kind) == nil && kind.Type == unix.CGROUP2_SUPER_MAGIC
}

// HasCgroups reports whether a container can have a control group of its own. On a hybrid host it
// has none. For a group crun raises RLIMIT_MEMLOCK, which root without CAP_SYS_RESOURCE may not
// (EPERM).
func HasCgroups() bool {
	return !isHybrid() && (os.Geteuid() != 0 || access.HoldsCapability(unix.CAP_SYS_RESOURCE))
}

// mostProcesses is the limit of processes that podman 4 sets for itself. It cannot give a container
// more.
const mostProcesses = 32 << 10

// ownLimit returns the option for a limit as the activator has it.
func ownLimit(resource string) (string, error) {
	number := map[string]int{"nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC}
	var l unix.Rlimit
	if err := unix.Getrlimit(number[resource], &l); err != nil {
		return "", fmt.Errorf("container: %w", os.NewSyscallError("getrlimit", err))
	}
	if resource == "nofile" {
		own := spec.LimitDescriptors(l.Max)
		return formatLimit(resource, own.Soft, own.Hard), nil
	}
	l.Max = min(l.Max, mostProcesses)
	return formatLimit(resource, l.Max, l.Max), nil
}
