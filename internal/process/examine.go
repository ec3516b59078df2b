package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/access"
	"activator/internal/kernel/fd"
	"activator/internal/process/program"
	"activator/internal/sandbox"
	"activator/internal/spec"
)

// Examiner says before anything is started what of a specification cannot work on
// this host. What many services have alike it looks at once; so it is for one moment.
// It makes and changes nothing. The zero value is ready.
type Examiner struct {
	// Later are paths on the host that will be there before anything is started, should
	// they not be yet; true: folders.
	Later map[string]bool

	known map[string][]*StepError
}

// Examine returns everything that a start of spec would certainly be refused, in the
// words of the start. What cannot be told it does not mention.
func (e *Examiner) Examine(process spec.Process) []*StepError {
	if process.Bare {
		return nil // the engine knows
	}
	if len(process.Argv) == 0 {
		return []*StepError{nothingToRun()}
	}
	process.Env = withDefaults(&process)
	id, directories, found := e.examineAround(&process)
	found = append(found, examineLimits(&process)...)
	key := fmt.Sprintf("%q %+v %q %q %v", process.Argv[0], process.Sandbox, process.Env, process.Dir, purposesOf(&process))
	if id.uid != sandbox.NoID || len(directories) > 0 {
		key += fmt.Sprint(id.uid, id.gid, id.groups, directories)
	}
	seen, known := e.known[key]
	if !known {
		seen = examineInside(&process, directories, id.inside(&process, false), e.viewer(id))
		if e.known == nil {
			e.known = make(map[string][]*StepError)
		}
		e.known[key] = seen
	}
	return append(found, seen...)
}

// ExamineNode says why the program cannot make a socket at a path inside; nil: it can, or that
// cannot be told.
func (e *Examiner) ExamineNode(process spec.Process, path string) *StepError {
	id, directories, _ := e.examineAround(&process)
	view, _ := sandbox.NewView(process.Sandbox, process.Argv[0], directories, id.inside(&process, false), e.viewer(id))
	if view == nil {
		return nil
	}
	var errno syscall.Errno
	if err := view.CheckMake(path); !errors.As(err, &errno) {
		return nil
	}
	return &StepError{Step: "target", Path: path, Errno: errno, Cure: "name a path in a folder that the service may write, such as /run or /tmp, which are its own"}
}

// examineAround finds the user that the service will be, and its own directories.
func (e *Examiner) examineAround(process *spec.Process) (id identity, directories []spec.Mount, found []*StepError) {
	id, err := e.findIdentity(process)
	directories, found = examineDirectories(process, id)
	return id, directories, append(listRefusal(err), found...)
}

func (e *Examiner) viewer(id identity) sandbox.Viewer {
	return sandbox.Viewer{UID: id.uid, GID: id.gid, Groups: id.groups, Later: e.Later}
}

// findIdentity is the user that the service will be. An id of its own, which no file of the
// host's has, is NoID.
func (e *Examiner) findIdentity(process *spec.Process) (identity, error) {
	id, err := findIdentity(process)
	switch {
	case err != nil:
	case id.change && process.User == "":
		id.uid = sandbox.NoID
		if process.Group == "" {
			id.gid = sandbox.NoID
		}
	case id.change && (!sandbox.MapsUser(id.uid) || !sandbox.MapsGroup(id.gid)):
		err = &StepError{Step: "user", Path: process.User, Errno: syscall.EINVAL,
			Cure: "this id is not among those of the user namespace we are in: give the container more of them"}
	case !id.change:
		id.uid, id.gid = id.hostIDs()
		id.groups, _ = os.Getgroups()
	}
	if err != nil && id.uid == 0 {
		id.uid, id.gid = sandbox.NoID, sandbox.NoID
	}
	return id, err
}

// listRefusal are err as a list, of what is a refusal.
func listRefusal(err error) []*StepError {
	var refused *StepError
	if errors.As(err, &refused) {
		return []*StepError{refused}
	}
	return nil
}

// examineLimits finds what raiseLimits would be refused. Only the machine's root may
// raise a hard limit, and not that of descriptors beyond the kernel's.
func examineLimits(s *spec.Process) (found []*StepError) {
	for _, limit := range s.Limits {
		number, err := resourceNumber(limit)
		var now unix.Rlimit
		if err != nil || number == spec.NamespaceLimit || unix.Getrlimit(number, &now) != nil || limit.Hard <= now.Max {
			found = append(found, listRefusal(err)...)
			continue
		}
		if !access.HoldsCapability(unix.CAP_SYS_RESOURCE) {
			found = append(found, limitRefused(limit.Resource, unix.EPERM, now.Max))
		}
	}
	return found
}

// examineDirectories finds those of the service's own directories that cannot be
// made, and returns where the others will be.
func examineDirectories(s *spec.Process, id identity) (mounts []spec.Mount, found []*StepError) {
	for _, d := range s.Directories {
		base, _, err := baseOf(d)
		if err != nil {
			found = append(found, listRefusal(err)...)
			continue
		}
		path := filepath.Join(base, d.Name)
		if err := canMake(path); err != nil {
			found = append(found, listRefusal(directoryError(path, err))...)
			continue
		}
		mounts = append(mounts, spec.Mount{Host: path, Inside: path})
	}
	return mounts, found
}

// canMake says why a folder cannot be made; nil where that is not certain.
func canMake(path string) error {
	folder, err := fd.OpenFolder(path)
	switch {
	case err == nil:
		folder.Close()
		return nil
	case errors.Is(err, unix.ENOENT):
		if errno := access.CheckMakeIn(filepath.Dir(path)); errno != 0 {
			return &os.PathError{Op: "mkdir", Path: path, Err: errno}
		}
		return nil
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EACCES):
		return err
	}
	return nil
}

// examineInside looks at what the service will find in its root.
func examineInside(s *spec.Process, directories []spec.Mount, inside sandbox.Inside, viewer sandbox.Viewer) []*StepError {
	found := listRefusal(sandbox.ExamineNetwork(s.Sandbox.Network))
	view, refused := sandbox.NewView(s.Sandbox, s.Argv[0], directories, inside, viewer)
	found = append(found, refused...)
	if view == nil {
		return found
	}
	look := program.Root{View: view, Dir: s.Dir}
	// A program whose own mount is refused has been reported.
	if !slices.ContainsFunc(refused, func(r *StepError) bool { return r.Path == s.Argv[0] }) {
		found = append(found, listRefusal(look.ExamineProgram(s.Argv[0], s.Env))...)
	}
	found = append(found, listRefusal(look.ExamineFolder(s.Dir))...)
	for _, p := range purposesOf(s) {
		if run, err := view.Find(filepath.Dir(p.inside)); err == nil && run.Locked {
			found = append(found, &StepError{Step: p.step, Path: p.inside, Errno: unix.EROFS, Cure: p.cure})
		}
	}
	return found
}
