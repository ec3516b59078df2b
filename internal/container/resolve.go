package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

// FindEngine looks for the engine and, for an ordinary user, for what maps the
// container's ids, and returns the engine's path. It starts nothing.
func FindEngine(name string) (string, error) {
	path, err := lookPath(name)
	if err != nil || os.Getuid() == 0 {
		return path, err
	}
	for _, m := range []struct{ program, file string }{{"newuidmap", "/etc/subuid"}, {"newgidmap", "/etc/subgid"}} {
		if _, err := lookPath(m.program); err != nil {
			return "", err
		}
		if _, err := readSubordinateIDs(m.file, os.Getuid()); err != nil {
			return "", err
		}
	}
	return path, nil
}

func lookPath(program string) (string, error) {
	if strings.Contains(program, "/") {
		_, err := os.Stat(program)
		return program, err
	}
	for _, dir := range strings.Split(os.Getenv("PATH"), ":") {
		path := dir + "/" + program
		if unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: not found in PATH: on Debian, apt-get install podman crun uidmap", program)
}

// ImageError is an image that the engine does not have.
type ImageError struct {
	Text string
	Cure string // how to get it
}

func (e *ImageError) Error() string { return "container: image " + e.Text + ": " + e.Cure }

// Resolve returns the engine of a service. It asks whether the container's image is there, and whether its
// name is free or was ours. It takes about a tenth of a second, and changes nothing.
// Its errors say how to get what is missing.
func Resolve(ctx context.Context, of spec.Service) (*Engine, error) {
	s := service{of}
	if err := s.checkOptions(); err != nil {
		return nil, err
	}
	if _, err := FindEngine(s.Container.Engine); err != nil {
		return nil, fmt.Errorf("container: %w", err)
	}
	_, err := askEngine(ctx, s.Container.Engine, "image", "exists", s.Container.Image)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		return nil, &ImageError{Text: s.Container.Image + ": not in this user's store", Cure: cureImage(s)}
	}
	var left *listed
	if err == nil {
		left, err = s.findNamesake(ctx)
	}
	if err != nil {
		return nil, err
	}
	return &Engine{of: s, left: left != nil}, nil
}

// cureImage says how to get an image, as the user who needs it.
func cureImage(s service) string {
	if strings.HasPrefix(s.Container.Image, "localhost/activator-echo") {
		return "`make image` makes it"
	}
	return fmt.Sprintf("`%s pull %s` as this user gets it", s.Container.Engine, s.Container.Image)
}

// listed is a container in the engine's list.
type listed struct {
	ID      string `json:"Id"`
	Image   string
	Names   []string
	Labels  map[string]string
	Command []string
	State   string
}

// isTorn reports whether its making was cut short: podman knows no more of it than its storage.
// Others who keep containers there, buildah for one, are named as its command.
func (l listed) isTorn() bool {
	return len(l.Labels) == 0 && len(l.Command) == 1 && l.Command[0] == "storage"
}

// isRunning reports whether another activator looks after it. A number that is somebody else's by now
// is told by the name of its process.
func (l listed) isRunning() bool {
	pid, err := strconv.Atoi(l.Labels[labelPID])
	if err != nil || pid == os.Getpid() {
		return false
	}
	its, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	own, ownErr := os.ReadFile("/proc/self/comm")
	return err == nil && ownErr == nil && bytes.Equal(its, own)
}

// listTries: podman's list fails when another container goes while it is made.
const listTries = 10

// findNamesake returns the container that has the service's name, nil if there is none. One that
// is not ours is an error.
func (s service) findNamesake(ctx context.Context) (*listed, error) {
	var text string
	var err error
	for range listTries {
		text, err = askEngine(ctx, s.Container.Engine, "ps", "--all", "--external", "--format=json", "--filter=name=^"+s.Name+"$")
		if err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	var found []listed
	if err := json.Unmarshal([]byte(text), &found); err != nil {
		return nil, fmt.Errorf("container: %s ps: %w", s.Container.Engine, err)
	}
	for _, l := range found {
		if !slices.Contains(l.Names, s.Name) {
			continue // what is of the storage alone passes every filter
		}
		if l.Labels[label] == s.File || l.isTorn() {
			return &l, nil
		}
		whose := "it has no label of ours"
		if file, ours := l.Labels[label]; ours {
			whose = "it is another service's, " + file
		}
		return nil, fmt.Errorf("container: there is a container called %s already, %.12s of %s (%s), and %s: `%s rm %s` removes it, or give the service's file another name",
			s.Name, l.ID, l.Image, l.State, whose, s.Container.Engine, s.Name)
	}
	return nil, nil
}

// removeLeft removes what was left behind of a container of ours.
func (s service) removeLeft(ctx context.Context) error {
	l, err := s.findNamesake(ctx)
	if err != nil || l == nil {
		return err
	}
	if l.isRunning() {
		return fmt.Errorf("container: the container %s is that of an activator that runs, pid %s", s.Name, l.Labels[labelPID])
	}
	_, _ = askEngine(ctx, s.Container.Engine, "kill", l.ID) // rm alone would wait for the container to end
	_, err = askEngine(ctx, s.Container.Engine, "rm", "--force", l.ID)
	return err
}

// questionEnviron returns what the engine should see of our own environment.
func questionEnviron() []string {
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

// askEngine runs the engine for an answer, as its user would.
func askEngine(ctx context.Context, argv ...string) (string, error) {
	var out, complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Dir = questionEnviron(), "/"
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("container: %s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}
