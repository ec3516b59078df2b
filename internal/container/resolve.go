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

	"activator/internal/spec"
)

// FindEngine returns the engine's path. For an ordinary user it also looks for the programs and
// files that map the container's ids. It starts nothing.
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
	path, err := exec.LookPath(program)
	if errors.Is(err, exec.ErrNotFound) {
		err = fmt.Errorf("%s: not found in PATH: on Debian, apt-get install podman crun uidmap", program)
	}
	return path, err
}

// KeyError is what is wrong with a key of the configuration.
type KeyError struct {
	Key  string // "container.image"
	Item int    // of a list: from 1; 0: the whole
	Text string
	Cure string // may be empty
}

func (e *KeyError) Error() string {
	text := e.Key + ": " + e.Text
	if e.Cure != "" {
		text += ": " + e.Cure
	}
	return text
}

// Resolve returns the engine of a service. It asks whether the container's image is there, and
// whether the name is free or a container of ours has it. It takes about a tenth of a second, and
// changes nothing. Its errors say how to get what is missing.
func Resolve(ctx context.Context, of spec.Service) (*Engine, error) {
	s := service{of}
	if err := s.checkOptions(); err != nil {
		return nil, err
	}
	if _, err := FindEngine(s.Container.Engine); err != nil {
		return nil, fmt.Errorf("container: %w", err)
	}
	if err := s.findImage(ctx); err != nil {
		return nil, err
	}
	left, err := s.findNamesake(ctx)
	if err != nil {
		return nil, err
	}
	return &Engine{of: s, left: left != nil}, nil
}

// findImage asks the engine for the image.
func (s service) findImage(ctx context.Context) error {
	_, err := askEngine(ctx, s.Container.Engine, "image", "exists", s.Container.Image)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == 1:
		return &KeyError{Key: "container.image", Text: s.Container.Image + ": not in this user's store", Cure: cureImage(s)}
	case err != nil && (strings.Contains(err.Error(), "invalid reference format") || strings.Contains(err.Error(), "must be lowercase")):
		_, why, _ := strings.Cut(err.Error(), "Error: ")
		return &KeyError{Key: "container.image", Text: s.Container.Image + ": " + why, Cure: "an image is written as in docker.io/library/redis:7, in lower case"}
	}
	return err
}

// cureImage says how the user gets an image.
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

// isTorn reports whether podman was interrupted while it made the container: it knows only its
// storage. Other programs that keep containers there, such as buildah, are named as its command.
func (l listed) isTorn() bool {
	return len(l.Labels) == 0 && len(l.Command) == 1 && l.Command[0] == "storage"
}

// isRunning reports whether another activator runs the container. The name of the process shows
// whether the number belongs to another program by now.
func (l listed) isRunning() bool {
	pid, err := strconv.Atoi(l.Labels[labelPID])
	if err != nil || pid == os.Getpid() {
		return false
	}
	its, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	own, ownErr := os.ReadFile("/proc/self/comm")
	return err == nil && ownErr == nil && bytes.Equal(its, own)
}

// listTries bounds retries: podman's list fails if a container ends while the list is made.
const listTries = 10

// findNamesake returns the container with the service's name, nil if there is none. A container
// that is not ours is an error.
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
			continue // a container that is only storage passes every filter
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

// removeLeft removes a container of ours that was left behind.
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

// questionEnviron returns the part of our environment that the engine should see.
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

// askEngine runs the engine as its user would, and returns what it prints.
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
