package container

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/access"
	"activator/internal/sandbox"
	"activator/internal/spec"
)

// Engine runs the containers of one service, one after the other. It is what package
// process starts in place of a program.
type Engine struct {
	of service

	mu     sync.Mutex
	left   bool   // a container may have been left behind
	folder string // of the start that is under way, for its sources; "": none
}

// clearTimeout bounds what is done after a container's end.
const clearTimeout = 30 * time.Second

// Clear takes away what was left behind, if anything was.
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

// Prepare is Clear, and returns the process whose user and mount namespaces the engine
// has; nil for root's.
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

// Command is the engine's command line, and what it is put behind.
func (e *Engine) Command(notify string) ([]string, sandbox.Engine, error) {
	s := e.of
	walls := sandbox.Engine{Seal: s.Sandbox.Seal, Names: s.Sandbox.Names, Internet: s.InternetSockets(), NewPrivs: s.Sandbox.NewPrivs, Cgroup2: isHybrid()}
	if err := s.checkOptions(); err != nil {
		return nil, walls, err
	}
	var err error
	if walls.Sources, err = s.listSources(); err != nil {
		return nil, walls, err
	}
	if len(walls.Sources) > 0 {
		if walls.Folder, err = os.MkdirTemp("", "activator-sources-"); err != nil {
			return nil, walls, err
		}
		e.mu.Lock()
		e.folder = walls.Folder
		e.mu.Unlock()
	}
	argv := append([]string{s.Container.Engine}, s.runOptions(walls)...)
	for _, resource := range s.unsetLimits() {
		l, err := ownLimit(resource)
		if err != nil {
			return nil, walls, err
		}
		argv = append(argv, l)
	}
	if notify != "" {
		argv = append(argv, "--volume="+notify+":"+NotifyPath+":rw", "--env=NOTIFY_SOCKET="+NotifyPath)
	}
	argv = append(argv, s.Container.Options...)
	return append(argv, s.imageAndCommand()...), walls, nil
}

// NotifyPath is where the socket that it reports to stands in a container.
const NotifyPath = "/run/.notify"

// Ended cleans up, where the engine has not done so itself.
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

// isHybrid reports whether the host has controllers in both versions of control
// groups: crun refuses it. Where that is so the engine is shown one of them.
func isHybrid() bool {
	var kind unix.Statfs_t
	return unix.Statfs("/sys/fs/cgroup/unified", &kind) == nil && kind.Type == unix.CGROUP2_SUPER_MAGIC
}

// HasCgroups reports whether a container can have a control group of its own. On a hybrid
// host it has none; and for one crun raises RLIMIT_MEMLOCK, which root without
// CAP_SYS_RESOURCE may not (EPERM).
func HasCgroups() bool {
	return !isHybrid() && (os.Geteuid() != 0 || access.Holds(unix.CAP_SYS_RESOURCE))
}

// mostProcesses is what podman 4 lowers its own limit of processes to, which it then cannot
// give a container more than.
const mostProcesses = 32 << 10

// ownLimit is a limit as it is here.
func ownLimit(resource string) (string, error) {
	number := map[string]int{"nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC}
	var l unix.Rlimit
	if err := unix.Getrlimit(number[resource], &l); err != nil {
		return "", fmt.Errorf("container: %w", os.NewSyscallError("getrlimit", err))
	}
	if resource == "nofile" {
		return formatLimit(resource, min(spec.SoftDescriptors, l.Max), l.Max), nil
	}
	l.Max = min(l.Max, mostProcesses)
	return formatLimit(resource, l.Max, l.Max), nil
}
