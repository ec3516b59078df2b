package stand

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ErrNotInThisBuild is a configuration that this build does not know.
var ErrNotInThisBuild = errors.New("not in this build")

// Activator starts ours with a configuration of one service, and waits until it
// is ready.
func (w *World) Activator(as *Person, text string) (*Process, error) {
	dir, err := w.Folder(as)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "service.toml"), []byte(text), 0o644); err != nil {
		return nil, err
	}
	return w.ActivatorIn(as, dir)
}

// ActivatorIn starts ours with the services of a folder.
func (w *World) ActivatorIn(as *Person, dir string) (*Process, error) {
	if err := w.check(dir); err != nil {
		return nil, err
	}
	// At this level the log says when the next sandbox stands.
	p, err := w.Start(as, nil, w.Program("activator"), "--config", dir, "--log-level", "debug")
	if err != nil {
		return nil, err
	}
	_, err = p.Next("activator ready")
	return p, err
}

// check asks the program itself whether it knows a configuration.
func (w *World) check(dir string) error {
	out, err := exec.Command(w.Program("activator"), "check", "--config", dir).CombinedOutput()
	switch {
	case err == nil:
		return nil
	case strings.Contains(string(out), "is not supported yet"):
		return ErrNotInThisBuild
	}
	return fmt.Errorf("activator check: %s", strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", " / "))
}

// Guard is the pid of an activator's guard; 0: there is none.
func Guard(activator int) int { return child(activator, "activator-guard") }

// Sandbox is the pid of the sandbox that waits; 0: there is none.
func Sandbox(activator int) int {
	for _, pid := range Children(activator) {
		if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); string(name) == "activator-stage\n" {
			return pid
		}
	}
	return 0
}

func child(of int, title string) int {
	for _, pid := range Children(of) {
		if Title(pid) == title {
			return pid
		}
	}
	return 0
}

// Quick lets a service that ends after each answer start again at once.
const Quick = "restart_delay = \"1ms\"\nrestart_max_delay = \"5ms\"\n"
