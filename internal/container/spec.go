package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"activator/internal/kernel/fd"
	"activator/internal/sandbox"
	"activator/internal/spec"
)

// service turns what the configuration says into options of the engine.
type service struct{ spec.Service }

// The labels of the containers that we start: the file of the configuration, and our pid.
const (
	label    = "activator.config"
	labelPID = "activator.pid"
)

// runOptions returns "run" and its options.
func (s service) runOptions(behind sandbox.Engine, names []string) []string {
	argv := []string{
		"run", "--rm", "--name=" + s.Name, "--hostname=" + s.Name, "--label=" + label + "=" + s.File, "--label=" + labelPID + "=" + strconv.Itoa(os.Getpid()),
		"--network=" + s.networkOption(behind),
		"--pull=never",
		// NOTIFY_SOCKET goes in as a mount of its own: what the runtime passes on ends with
		// READY=1, and the engine would tell of its monitor as the main process.
		"--sdnotify=ignore",
		"--cap-drop=all", "--read-only",
	}
	if !HasCgroups() && !slices.ContainsFunc(s.Container.Options, func(o string) bool { return strings.HasPrefix(o, "--cgroups") }) {
		argv = append(argv, "--cgroups=disabled")
	}
	if !s.Sandbox.NewPrivs {
		argv = append(argv, "--security-opt=no-new-privileges")
	}
	if s.Sandbox.Init {
		argv = append(argv, "--init")
	}
	for _, c := range s.Sandbox.Capabilities {
		argv = append(argv, "--cap-add="+c)
	}
	argv = append(argv, s.identityOptions()...)
	for _, l := range s.Limits {
		argv = append(argv, formatLimit(l.Resource, l.Soft, l.Hard))
	}
	for i, m := range s.Sandbox.ReadOnly {
		argv = append(argv, "--volume="+behind.Source(i)+":"+m.Inside+":ro")
	}
	for i, m := range s.Sandbox.Writable {
		argv = append(argv, "--volume="+behind.Source(len(s.Sandbox.ReadOnly)+i)+":"+m.Inside+":rw")
	}
	for _, path := range s.Sandbox.Tmpfs {
		argv = append(argv, "--tmpfs="+path)
	}
	if len(names) > 0 {
		argv = append(argv, "--env=LISTEN_FDNAMES="+strings.Join(names, ":"))
	}
	for _, e := range s.Env {
		argv = append(argv, "--env="+e)
	}
	return argv
}

// imageAndCommand returns the arguments behind the options.
func (s service) imageAndCommand() []string {
	return append([]string{s.Container.Image}, s.Container.Command...)
}

// networkOption returns the value of --network. A namespace at a path is the last of the sources,
// unless the path is a link of the kernel's: only the kernel can follow that.
func (s service) networkOption(behind sandbox.Engine) string {
	path := s.networkPath()
	switch {
	case len(behind.Sources) > len(s.Sandbox.ReadOnly)+len(s.Sandbox.Writable):
		return "ns:" + behind.Source(len(behind.Sources)-1)
	case path != "":
		return "ns:" + path
	case s.Sandbox.Network == "":
		return "none"
	}
	return s.Sandbox.Network
}

func (s service) networkPath() string {
	if name, ok := strings.CutPrefix(s.Sandbox.Network, "netns:"); ok {
		return filepath.Join("/run/netns", name)
	}
	if filepath.IsAbs(s.Sandbox.Network) {
		return s.Sandbox.Network
	}
	return ""
}

// listSources returns the paths, without links, of what is mounted from the host: read-only,
// writable, and the network's namespace. The engine opens what it mounts by path, and another
// user could make a link of it meanwhile. So the sources are mounted first where no other process
// sees them, and the engine gets those paths.
func (s service) listSources() (paths []string, err error) {
	for _, m := range slices.Concat(s.Sandbox.ReadOnly, s.Sandbox.Writable) {
		path, _, err := resolveLinks(m.Host)
		if err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	if path := s.networkPath(); path != "" {
		path, magic, err := resolveLinks(path)
		if err != nil {
			return nil, err
		}
		if !magic {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

// resolveLinks returns where a path leads, without links. A path that does not exist is returned
// as it is: the error of opening it says more.
func resolveLinks(path string) (real string, magic bool, err error) {
	place, err := fd.WalkTo(path)
	var link *fd.LinkError
	if errors.As(err, &link) {
		return "", false, fmt.Errorf("container: %w", err)
	}
	if err != nil {
		return path, false, nil
	}
	defer place.Close()
	return place.Path(), place.Magic(), nil
}

func (s service) identityOptions() []string {
	argv := []string{fmt.Sprintf("--umask=%04o", s.Umask.Perm())}
	switch {
	case s.User != "" && s.Group != "":
		argv = append(argv, "--user="+s.User+":"+s.Group)
	case s.User != "":
		argv = append(argv, "--user="+s.User)
	}
	if s.Dir != "" && s.Dir != "/" {
		argv = append(argv, "--workdir="+s.Dir)
	}
	return argv
}

// unsetLimits returns the limits that are set to our own. Otherwise the engine tries to raise
// them, which needs CAP_SYS_RESOURCE.
func (s service) unsetLimits() []string {
	var all []string
	for _, resource := range []string{"nofile", "nproc"} {
		if !slices.ContainsFunc(s.Limits, func(l spec.Limit) bool { return l.Resource == resource }) {
			all = append(all, resource)
		}
	}
	return all
}

func formatLimit(resource string, soft, hard uint64) string {
	return fmt.Sprintf("--ulimit=%s=%s:%s", resource, formatNumber(soft), formatNumber(hard))
}

func formatNumber(n uint64) string {
	if n == spec.Unlimited {
		return "-1"
	}
	return strconv.FormatUint(n, 10)
}

// A refusal is an option that would break a promise, and why.
type refusal struct {
	option *regexp.Regexp
	reason string
}

// refused is compiled when it is needed. At the start of the program it would cost every reaper,
// which is the same program, 0.15 ms.
var refused = sync.OnceValue(func() []refusal {
	return []refusal{
		{regexp.MustCompile(`^--(network|net)(=|$)`), "[sandbox] network says what the network is"},
		{regexp.MustCompile(`^--(pod|pod-id-file)(=|$)`), "a pod has a network of its own"},
		{regexp.MustCompile(`^(--detach(=|$)|-[itqP]*d)`), "the activator waits for the container"},
		{regexp.MustCompile(`^--(name|replace|rm|pull|cidfile|conmon-pidfile|pidfile|sdnotify|preserve-fds)(=|$)`), "the activator sets it"},
		{regexp.MustCompile(`^(-[itqP]*t|--tty)(=|$)`), "there is no terminal"},
		{regexp.MustCompile(`^(--label=|-l=?)?` + regexp.QuoteMeta(label) + `(=|$)`), "the activator sets it"},
	}
})

func (s service) checkOptions() error {
	if filepath.Base(s.Container.Engine) != "podman" {
		return &KeyError{Key: "container.engine", Text: fmt.Sprintf("%q: only \"podman\" is known", s.Container.Engine)}
	}
	if s.Container.Image == "" {
		return &KeyError{Key: "container.image", Text: "is empty"}
	}
	if strings.HasPrefix(s.Container.Image, "-") {
		return &KeyError{Key: "container.image", Text: fmt.Sprintf("%q: an image does not begin with a dash", s.Container.Image)}
	}
	if strings.Contains(s.Name, "@") {
		return &KeyError{Key: "container", Text: fmt.Sprintf("%q cannot be the name of a container", s.Name), Cure: "give the service's file one without @"}
	}
	if s.Group != "" && s.User == "" {
		return &KeyError{Key: "service.group", Text: "a group needs a user", Cure: "write user = \"...\" too"}
	}
	for _, l := range s.Limits {
		if number, _ := l.Number(); number == spec.NamespaceLimit {
			return &KeyError{Key: "service.limits", Text: l.Resource + ": the engine makes the user namespace, and what it may have is its user's"}
		}
		if l.Resource == "as" {
			return &KeyError{Key: "service.limits", Text: "as: the engine knows no such limit", Cure: "write options = [\"--memory=1g\"], where it has control groups"}
		}
	}
	for i, option := range s.Container.Options {
		for _, r := range refused() {
			if r.option.MatchString(option) {
				return &KeyError{Key: "container.options", Item: i + 1, Text: fmt.Sprintf("%q: %s", option, r.reason)}
			}
		}
		if option == "--" || !strings.HasPrefix(option, "-") && (i == 0 || !takesValue(s.Container.Options[i-1])) {
			return &KeyError{Key: "container.options", Item: i + 1, Text: fmt.Sprintf("%q: not an option", option), Cure: "what to run stands in image and command"}
		}
	}
	return nil
}

// takesValue reports whether the word after option may be its value.
func takesValue(option string) bool {
	return strings.HasPrefix(option, "-") && option != "--" && !strings.Contains(option, "=")
}
