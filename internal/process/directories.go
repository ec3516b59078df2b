package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/sandbox"
	"activator/internal/spec"
)

// directoryKind is one of the four: its name, its variable, root's base and an
// ordinary user's, as in systemd.exec(5).
type directoryKind struct {
	name, variable, base string
	users                func() (string, error)
}

var directoryKinds = [...]directoryKind{
	{"state", "STATE_DIRECTORY", "/var/lib", stateHome},
	{"cache", "CACHE_DIRECTORY", "/var/cache", cacheHome},
	{"logs", "LOGS_DIRECTORY", "/var/log", logsHome},
	{"runtime", "RUNTIME_DIRECTORY", "/run", runtimeHome},
}

// baseOf is the folder that d is below, and what kind it is.
func baseOf(d spec.Directory) (string, directoryKind, error) {
	at := slices.IndexFunc(directoryKinds[:], func(k directoryKind) bool { return k.name == d.Kind })
	if at < 0 || !filepath.IsLocal(d.Name) || d.Name == "." {
		return "", directoryKind{}, &StepError{Step: "directory", Path: d.Name,
			Reason: "the kind is state, cache, logs or runtime", Cure: "the name is relative and stays below it"}
	}
	kind := directoryKinds[at]
	if os.Geteuid() == 0 {
		return kind.base, kind, nil
	}
	base, err := kind.users()
	if err != nil {
		return "", kind, &StepError{Step: "directory", Path: d.Name, Errno: errnoOf(err), Cure: err.Error()}
	}
	return base, kind, nil
}

// ClaimDirectories claims the folders that the service may write, [fd.ClaimFolders]: paths through them
// are walked with care. It is called for all services before the first one starts.
func ClaimDirectories(s spec.Process) {
	var paths []string
	for _, m := range s.Sandbox.Writable {
		paths = append(paths, m.Host)
	}
	for _, d := range s.Directories {
		if base, _, err := baseOf(d); err == nil {
			paths = append(paths, filepath.Join(base, d.Name))
		}
	}
	fd.ClaimFolders(paths...)
}

// madeDirectories are a service's own directories.
type madeDirectories struct {
	mounts []spec.Mount // where they are seen inside: at the same path
	env    []string     // the variables that say so
	held   []string     // runtime directories, until removeUsers
}

// makeDirectories makes the service's own directories on the host. tell is called with a directory that
// has got another owner.
func (r *runtimeFolders) makeDirectories(directories []spec.Directory, id identity, tell func(path string, given fd.Given)) (all madeDirectories, err error) {
	defer func() {
		if err != nil {
			r.removeUsers(all.held)
			all.held = nil
		}
	}()
	values := map[string]string{}
	for _, d := range directories {
		base, kind, err := baseOf(d)
		if err != nil {
			return all, err
		}
		path := filepath.Join(base, d.Name)
		if d.Kind == "runtime" {
			r.addUser(path)
			all.held = append(all.held, path)
		}
		made, given, err := makeDirectory(base, d.Name, id)
		if err != nil {
			return all, directoryError(path, err)
		}
		tell(path, given)
		r.noteFolder(path, made)
		all.mounts = append(all.mounts, spec.Mount{Host: path, Inside: path})
		if values[kind.variable] != "" {
			path = values[kind.variable] + ":" + path
		}
		values[kind.variable] = path
	}
	for _, kind := range directoryKinds {
		if value := values[kind.variable]; value != "" {
			all.env = append(all.env, kind.variable+"="+value)
		}
	}
	return all, nil
}

// tellGiven warns of a directory that was somebody's, and is the service's now with what is in it; and of what
// stays another user's in it.
func (prep *preparation) tellGiven(path string, given fd.Given) {
	if prep.starter.Warn == nil {
		return
	}
	if given.Files > 0 || given.From != 0 {
		prep.starter.Warn(prep.plan.Name, fmt.Sprintf("directory given to the service's user: %s from uid %d to uid %d, with %d files and folders in it",
			path, given.From, prep.id.uid, given.Files))
	}
	if given.Left > 0 {
		prep.starter.Warn(prep.plan.Name, fmt.Sprintf("directory given to the service's user, but not the files and folders of others in it: "+
			"%s to uid %d, %d left; give them by hand if the service is to have them", path, prep.id.uid, given.Left))
	}
}

// directoryError says what is wrong with a service's own directory.
func directoryError(path string, err error) error {
	var link *fd.LinkError
	if errors.As(err, &link) {
		return sandbox.NewError("directory", path, err)
	}
	return &StepError{Step: "directory", Path: path, Errno: errnoOf(err),
		Reason: err.Error(), Cure: "it must be a folder that we may make and own"}
}

// makeDirectory makes base/name, gives it to the service, and says which folder it
// is, and what it has given. Those in between may be another service's.
func makeDirectory(base, name string, id identity) (made fd.ID, given fd.Given, err error) {
	top, err := fd.MakeFolder(base, 0o700)
	if err != nil {
		return made, given, err
	}
	top.Close()
	folder, err := fd.MakeFolder(filepath.Join(base, name), 0o755)
	if err != nil {
		return made, given, err
	}
	defer folder.Close()
	if as := fd.ClaimedAs(folder.ID()); !folder.Steady() && as != "" && as != folder.Path() {
		// Moved here by the service whose folder is around it.
		return made, given, &os.PathError{Op: "open", Path: folder.Path(), Err: fmt.Errorf("%w: it is another service's, %s", unix.EPERM, as)}
	}
	var stat unix.Stat_t
	if err := unix.Fstat(folder.FD(), &stat); err != nil {
		return made, given, os.NewSyscallError("fstat", err)
	}
	if !id.change || int(stat.Uid) == id.uid && int(stat.Gid) == id.gid {
		return folder.ID(), given, nil
	}
	given, err = folder.GiveTo(id.uid, id.gid)
	return folder.ID(), given, err
}

// The folders of the XDG base directory specification; logs as systemd has them.

func stateHome() (string, error) { return xdgFolder("XDG_STATE_HOME", ".local/state") }

func cacheHome() (string, error) { return xdgFolder("XDG_CACHE_HOME", ".cache") }

func logsHome() (string, error) {
	state, err := stateHome()
	return filepath.Join(state, "log"), err
}

func runtimeHome() (string, error) {
	if folder := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(folder) {
		return folder, nil
	}
	folder := fmt.Sprintf("/run/user/%d", os.Geteuid())
	if info, err := os.Stat(folder); err != nil || !info.IsDir() {
		return "", fmt.Errorf("XDG_RUNTIME_DIR is not set, and there is no %s: %w", folder, syscall.ENOENT)
	}
	return folder, nil
}

func xdgFolder(variable, below string) (string, error) {
	if folder := os.Getenv(variable); filepath.IsAbs(folder) {
		return folder, nil
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, below), err
}

// runtimeFolders counts the users of the runtime directories, which are removed with the
// last process that has them.
type runtimeFolders struct {
	mu   sync.Mutex
	used map[string]*runtimeFolder
}

// runtimeFolder is a runtime directory that processes have.
type runtimeFolder struct {
	users int
	id    fd.ID // zero: it is not there yet
}

func (r *runtimeFolders) addUser(path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.used == nil {
		r.used = map[string]*runtimeFolder{}
	}
	if r.used[path] == nil {
		r.used[path] = &runtimeFolder{}
	}
	r.used[path].users++
}

// noteFolder notes which folder it is, if the path is a runtime directory's.
func (r *runtimeFolders) noteFolder(path string, id fd.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.used[path]; f != nil {
		f.id = id
	}
}

// removeUsers removes the folders without a user that we made, not what stands in their
// place by now.
func (r *runtimeFolders) removeUsers(paths []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, path := range paths {
		f := r.used[path]
		if f.users--; f.users > 0 {
			continue
		}
		delete(r.used, path)
		if place, err := fd.WalkTo(path); err == nil {
			_ = place.RemoveFolder(place.Name, f.id)
			place.Close()
		}
	}
}

// DirectoryPath is where a directory of a service is on the host; "" where there can be none.
func DirectoryPath(d spec.Directory) string {
	base, _, err := baseOf(d)
	if err != nil {
		return ""
	}
	return filepath.Join(base, d.Name)
}
