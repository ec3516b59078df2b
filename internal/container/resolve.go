package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Engine looks for the engine and, for an ordinary user, for what maps the
// container's ids, and returns the engine's path. It starts nothing.
func Engine(name string) (string, error) {
	path, err := lookup(name)
	if err != nil || os.Getuid() == 0 {
		return path, err
	}
	for _, m := range []struct{ program, file string }{{"newuidmap", "/etc/subuid"}, {"newgidmap", "/etc/subgid"}} {
		if _, err := lookup(m.program); err != nil {
			return "", err
		}
		if _, err := subordinate(m.file, os.Getuid()); err != nil {
			return "", err
		}
	}
	return path, nil
}

// ImageError is an image that the engine does not have.
type ImageError struct {
	Text string
	Cure string // how to get it
}

func (e *ImageError) Error() string { return "container: image " + e.Text + ": " + e.Cure }

// Resolve asks the engine where its images are and whether the container's is
// among them. It takes about a tenth of a second and starts processes, which are
// gone when it returns. Its errors say how to get what is missing.
func Resolve(ctx context.Context, s Spec) (Store, error) {
	if err := s.check(); err != nil {
		return Store{}, err
	}
	if _, err := Engine(s.Engine); err != nil {
		return Store{}, fmt.Errorf("container: %w", err)
	}
	text, err := ask(ctx, s.Engine, "info", "--format", "{{.Store.GraphDriverName}} {{.Store.GraphRoot}}")
	if err != nil {
		return Store{}, err
	}
	driver, root, _ := strings.Cut(strings.TrimSpace(text), " ")
	switch driver {
	case "overlay", "vfs":
	default:
		return Store{}, fmt.Errorf("container: %s keeps images with the driver %q: only overlay and vfs are known: set driver in storage.conf and make the image again", s.Engine, driver)
	}
	_, err = ask(ctx, s.Engine, "image", "exists", s.Image)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		return Store{}, &ImageError{Text: fmt.Sprintf("%s: not in %s", s.Image, root), Cure: cureImage(s)}
	}
	return Store{Driver: driver, Root: root}, err
}

// cureImage says how to get an image, as the user who needs it.
func cureImage(s Spec) string {
	if strings.HasPrefix(s.Image, "localhost/activator-echo") {
		return "`make image` makes it"
	}
	return fmt.Sprintf("`%s pull %s` as this user gets it", s.Engine, s.Image)
}

// Environ returns what the engine should see of our own environment.
func Environ() []string {
	var env []string
	for _, e := range os.Environ() {
		name, _, _ := strings.Cut(e, "=")
		switch {
		case name == "PATH", name == "HOME", name == "USER", name == "LANG", name == "TMPDIR", name == "GORACE",
			strings.HasPrefix(name, "XDG_"), strings.HasPrefix(name, "CONTAINERS_"), strings.HasPrefix(name, "STORAGE_"):
			env = append(env, e)
		}
	}
	return env
}

// ask runs the engine for an answer, in namespaces like those of a container:
// as an ordinary user it would otherwise leave a process of its own behind.
func ask(ctx context.Context, argv ...string) (string, error) {
	text, err := json.Marshal(plan{Engine: argv})
	if err != nil {
		return "", err
	}
	var out, complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, self, stageLaunch, string(text))
	cmd.Env = Environ()
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err = cmd.Run()
	if err != nil {
		return "", fmt.Errorf("container: %s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}
