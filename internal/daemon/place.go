package daemon

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"activator/internal/config"
	"activator/internal/listen"
	"activator/internal/process"
	"activator/internal/sandbox"
	"activator/internal/spec"
)

// socketError returns the error of the address at index i, or of one of its options.
func socketError(source config.Source, i int, bad *listen.Error) *config.Error {
	text, cure := bad.Err.Error(), bad.Cure
	if bad.Key() == "listen" {
		text = bad.Address + ": " + strings.TrimPrefix(bad.Step+": ", ": ") + text
	}
	if cure == "" {
		text, cure = splitCure(bad.Err, text)
	}
	e := source.Error(config.Place{Key: "socket." + bad.Key(), Socket: i}, text, cure)
	e.Host = bad.Occupied()
	return e
}

// splitCure splits text, which ends with err's own, into what is wrong and err's cure.
func splitCure(err error, text string) (without, cure string) {
	var cured interface{ Advice() string }
	if errors.As(err, &cured) {
		cure = cured.Advice()
	}
	return strings.TrimSuffix(text, "; "+cure), cure
}

// placeError adds, to the error of an address that could not be bound, the place where the address
// is written. Only the host can cure it: the file has been examined.
func placeError(err error, services []planned) error {
	var bad *listen.Error
	if !errors.As(err, &bad) || sandbox.AddCure(err) != err { //nolint:errorlint // the very one
		return err
	}
	for _, p := range services {
		for i, socket := range p.spec.Sockets {
			if socket.Address.String() == bad.Address {
				e := socketError(p.source, i, bad)
				e.Host = true
				return config.Errors{e}
			}
		}
	}
	return err
}

// addStepError notes a step of the start that will be refused, at the key that asks for it.
func (x *examination) addStepError(source config.Source, e *process.StepError) {
	if isOfHost(source.Service, e) {
		x.addHostError("sandbox", e)
		return
	}
	text, cure := describeStep(e)
	found := x.addError(source, placeOf(source.Service, e), text, cure)
	// Of a service's own directories the configuration has only the name.
	found.Host = e.Step == "directory" && (e.Errno == unix.EACCES || e.Errno == unix.EROFS || e.Errno == unix.ENOENT)
}

// isOfHost reports whether a step is about what every sandbox has of the host, which no key names.
func isOfHost(conf spec.Service, e *process.StepError) bool {
	_, named := placeOfMount(conf, e.Path)
	return !named && e.Step == "open" && filepath.Dir(e.Path) == "/dev" && (len(conf.Argv) == 0 || conf.Argv[0] != e.Path)
}

// describeStep returns what is wrong, and the cure. A reason says more than the errno.
func describeStep(e *process.StepError) (text, cure string) {
	text, cure = e.Errno.Error(), e.Cure
	switch {
	case e.Reason != "" && e.Errno == unix.ENOEXEC:
		text += ": " + e.Reason
	case e.Reason != "":
		text = e.Reason
	case e.Errno == 0:
		text, cure = e.Cure, ""
	}
	if e.Path != "" && !(filepath.IsAbs(e.Path) && strings.Contains(text, e.Path)) {
		text = e.Path + ": " + text
	}
	return text, cure
}

// placeOf finds the key that a step is about.
func placeOf(conf spec.Service, e *process.StepError) config.Place {
	switch e.Step {
	case "user", "group", "working_directory", "syslog":
		return config.Place{Key: "service." + e.Step}
	case "notify":
		return config.Place{Key: keyOfReports(conf)}
	case "limit":
		return config.Place{Key: "service.limits", Name: e.Path}
	case "exec":
		return config.Place{Key: "service.exec", Item: 1}
	case "network", "root", "connect", "syscalls", "users", "groups":
		return config.Place{Key: "sandbox." + e.Step}
	}
	if p, found := placeOfMount(conf, e.Path); found {
		return p
	}
	if len(conf.Argv) == 0 {
		return config.Place{Key: "container"}
	}
	return config.Place{Key: "service.exec", Item: 1}
}

// keyOfReports is the key by which a program reports to us.
func keyOfReports(conf spec.Service) string {
	switch {
	case conf.Notify:
		return "service.notify"
	case conf.Watchdog > 0:
		return "service.watchdog"
	}
	return "service.file_descriptor_store_max"
}

// placeOfMount finds the key of a folder on the host, or of a mount point.
func placeOfMount(conf spec.Service, path string) (config.Place, bool) {
	for _, d := range conf.Directories {
		if path == process.DirectoryPath(d) || path == d.Name {
			return config.Place{Key: "service." + d.Kind + "_directory"}, true
		}
	}
	is := func(m spec.Mount) bool { return m.Host == path || m.Inside == path }
	if i := slices.IndexFunc(conf.Sandbox.ReadOnly, is); i >= 0 {
		return config.Place{Key: "sandbox.read_only", Item: i + 1}, true
	}
	if i := slices.IndexFunc(conf.Sandbox.Writable, is); i >= 0 {
		return config.Place{Key: "sandbox.writable", Item: i + 1}, true
	}
	if i := slices.Index(conf.Sandbox.Tmpfs, path); i >= 0 {
		return config.Place{Key: "sandbox.tmpfs", Item: i + 1}, true
	}
	return config.Place{}, false
}
