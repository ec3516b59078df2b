package sandbox

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/spec"
)

// errUnknown says that only the service itself could tell.
var errUnknown = errors.New("cannot be told from outside")

// Viewer is the user that looks. A bit of a file's mode that keeps it out counts only
// where nothing else could let it in.
type Viewer struct {
	UID, GID int // NoID: one that no file of the host's belongs to
	Groups   []int
	Any      bool // capabilities let it in everywhere

	// Later are paths on the host that will be there at the start, should they not be
	// yet; true: folders.
	Later map[string]bool
}

// NoID is the id of a service that has its own, which no file of the host's has.
const NoID = -2

// View is what a service will see of the host's files, told from its entries before
// anything is mounted. It makes and opens nothing until it is asked to.
type View struct {
	viewer Viewer
	own    []string // folders of the service's on the host: made and given before each start
	mounts []placed // in the order in which they are mounted
}

// placed is an entry where it really stands.
type placed struct {
	rootEntry
	at      string // inside, without links
	host    string // binds: Source, without links; "": not there yet
	unknown bool   // what is in it cannot be told
}

// Spot is what stands at a path inside.
type Spot struct {
	Path   string      // inside, without links
	Host   string      // where the host has it; "": a folder that is made for the service
	Stat   unix.Stat_t // with Host
	Locked bool        // it cannot be written, whatever its mode says
	bound  bool        // it will be a folder of the host's
}

// Folder reports whether it is one.
func (s Spot) Folder() bool { return s.Host == "" || s.Stat.Mode&unix.S_IFMT == unix.S_IFDIR }

// NewView lays out what a service will see, and says what of that cannot be mounted.
// directories are the service's own: what is missing of them will be made.
func NewView(s spec.Sandbox, program string, directories []spec.Mount, inside Inside, viewer Viewer) (*View, []*StepError) {
	err := checkWords(s)
	if err == nil {
		_, err = capabilityMask(s.Capabilities)
	}
	var entries []rootEntry
	if err == nil {
		entries, err = listEntries(s, program, directories, inside)
	}
	if err != nil {
		return nil, []*StepError{NewError("root", s.Root, err)}
	}
	if slices.ContainsFunc(s.Capabilities, func(name string) bool { return strings.HasPrefix(name, "CAP_DAC_") }) {
		viewer.Any = true
	}
	v := &View{viewer: viewer}
	for _, d := range directories {
		v.own = append(v.own, d.Host)
	}
	var refused []*StepError
	for _, e := range entries {
		if bad := v.addMount(e); bad != nil {
			refused = append(refused, bad)
		}
	}
	return v, refused
}

// addMount puts e where its path leads, and returns what is wrong with that.
func (v *View) addMount(e rootEntry) *StepError {
	if e.Kind == entryText {
		return nil // the file that it is a copy of stands there
	}
	p := placed{at: e.Path}
	var bad *StepError
	if e.isBind() {
		if p.host, bad = v.findSource(&e); p.host == "" && e.Optional {
			return nil
		}
	}
	p.rootEntry = e
	if e.Asked {
		spot, err := v.Find(e.Path)
		switch {
		case err == nil:
			p.at = spot.Path
			folder := e.folder || e.Kind == entryTmpfs || slices.Contains(v.own, e.Source)
			if bad == nil && spot.Folder() != folder {
				bad = NewError("mount", e.Path, map[bool]unix.Errno{false: unix.EINVAL, true: unix.ENOTDIR}[e.Kind == entryTmpfs])
			}
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
			if refused := v.makePoint(e.Path); bad == nil && !slices.Contains(v.own, e.Source) {
				bad = refused
			}
		case bad == nil && errors.Is(err, unix.EACCES):
			bad = &StepError{Step: "mount point", Path: e.Path, Errno: unix.EACCES, Cure: "a folder on its path cannot be searched by the service's user"}
		}
	}
	p.unknown = bad != nil || e.isBind() && p.host == "" && !slices.Contains(v.own, e.Source)
	v.mounts = append(v.mounts, p)
	return bad
}

// findSource finds what a bind is of.
func (v *View) findSource(e *rootEntry) (host string, bad *StepError) {
	if err := e.lookAtSource(); err != nil {
		return "", NewError("open", e.Source, err)
	}
	if host = e.real; host == "" {
		host = e.Source
	}
	var stat unix.Stat_t
	err := unix.Stat(host, &stat)
	switch {
	case err == nil:
		host, err = filepath.EvalSymlinks(host)
	case slices.Contains(v.own, e.Source):
		return "", nil // it will be empty
	}
	if folder, later := v.viewer.Later[e.Source]; later && err == unix.ENOENT {
		e.folder = folder
		return "", nil
	}
	if err == nil {
		return host, nil
	}
	if err == unix.ENOENT && e.Optional {
		return "", nil
	}
	return "", NewError("open", e.Source, err)
}

// ExamineSource says why a path of the host cannot be mounted; nil: it can, or will be
// there later.
func ExamineSource(path string, later map[string]bool) *StepError {
	place, err := fd.WalkTo(path)
	if err == nil {
		defer place.Close()
		var source int
		if source, err = place.OpenPath(); err == nil {
			_ = unix.Close(source)
		}
	}
	if _, made := later[path]; err != nil && !(made && errors.Is(err, unix.ENOENT)) {
		return NewError("open", path, err)
	}
	return nil
}

// makePoint makes the folders of a mount point that are missing, where that is allowed.
func (v *View) makePoint(name string) *StepError {
	var missing []string
	for {
		missing = append(missing, name)
		above := path.Dir(name)
		spot, err := v.Find(above)
		switch {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
			name = above
			continue
		case err != nil:
			return nil
		case spot.Host != "" || spot.Locked || spot.bound:
			return refusePoint(name)
		}
		for i := len(missing) - 1; i >= 0; i-- {
			at := path.Join(spot.Path, strings.TrimPrefix(missing[i], above))
			v.mounts = append(v.mounts, placed{rootEntry: rootEntry{Kind: entryFolder}, at: at})
		}
		return nil
	}
}

// mostLinks is the kernel's, path_resolution(7).
const mostLinks = 40

// Find follows a path inside, as the viewer may. Its error is what the kernel would
// say, or [errUnknown].
func (v *View) Find(name string) (Spot, error) {
	spot, rest, links := Spot{Path: "/"}, strings.Split(name, "/"), 0
	for len(rest) > 0 {
		part := rest[0]
		rest = rest[1:]
		if part == "" || part == "." {
			continue
		}
		if !spot.Folder() {
			return spot, unix.ENOTDIR
		}
		if !v.modeAllows(spot, 1) {
			return spot, unix.EACCES
		}
		next := path.Join(spot.Path, part) // of ".." it is the folder above
		target, found, err := v.lookAt(next)
		if err != nil {
			return Spot{Path: next}, err
		}
		if target == "" {
			spot = found
			continue
		}
		if links++; links > mostLinks {
			return found, unix.ELOOP
		}
		if path.IsAbs(target) {
			spot = Spot{Path: "/"}
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return spot, nil
}

// lookAt looks at a path without links but, maybe, itself: then target is where it
// points.
func (v *View) lookAt(at string) (target string, spot Spot, err error) {
	if at == "/" {
		return "", Spot{Path: at}, nil
	}
	if spec.IsBelow(at, "/proc") && at != "/proc" {
		return "", Spot{}, errUnknown
	}
	if at == "/proc" {
		return "", Spot{Path: at, Locked: true}, nil
	}
	for i := len(v.mounts) - 1; i >= 0; i-- {
		p := &v.mounts[i]
		switch {
		case !spec.IsBelow(at, p.at):
		case p.unknown:
			return "", Spot{}, errUnknown
		case p.isBind() && p.host != "":
			return v.lookAtHost(at, p)
		case p.at == at && p.Kind == entryLink:
			return p.Source, Spot{}, nil
		case p.at == at:
			return "", Spot{Path: at, Locked: p.Kind == entryCover, bound: p.isBind()}, nil
		case p.isBind(), p.Kind == entryTmpfs, p.Kind == entryCover:
			return "", Spot{}, unix.ENOENT
		}
	}
	return "", Spot{}, unix.ENOENT
}

// lookAtHost looks at what a bind brings in.
func (v *View) lookAtHost(at string, p *placed) (target string, spot Spot, err error) {
	spot = Spot{Path: at, Host: path.Join(p.host, strings.TrimPrefix(at, p.at)), Locked: p.Kind == entryReadOnly}
	switch err := unix.Lstat(spot.Host, &spot.Stat); {
	case err == unix.EACCES && os.Geteuid() != 0, err == unix.ENOENT, err == unix.ENOTDIR, err == unix.ENAMETOOLONG:
		return "", spot, err
	case err != nil:
		return "", spot, errUnknown
	}
	if spot.Stat.Mode&unix.S_IFMT == unix.S_IFLNK {
		target, err = os.Readlink(spot.Host)
		if err != nil {
			return "", spot, errUnknown
		}
	}
	return target, spot, nil
}

// Allows reports whether the viewer may do with a spot what the bits say: 4 is to
// read, 2 to write, 1 to search or execute. It errs on the side of yes.
func (v *View) Allows(s Spot, bits uint32) bool {
	if s.Locked && bits&2 != 0 {
		return false
	}
	return v.modeAllows(s, bits)
}

func (v *View) modeAllows(s Spot, bits uint32) bool {
	if s.Host == "" || v.viewer.Any || slices.ContainsFunc(v.own, func(own string) bool { return spec.IsBelow(s.Host, own) }) {
		return true
	}
	mode := s.Stat.Mode
	switch {
	case int(s.Stat.Uid) == v.viewer.UID:
		mode >>= 6
	case int(s.Stat.Gid) == v.viewer.GID, slices.Contains(v.viewer.Groups, int(s.Stat.Gid)):
		mode >>= 3
	}
	return mode&bits == bits || hasACL(s.Host)
}

// hasACL reports whether acl(5) may say something else than the mode.
func hasACL(host string) bool {
	n, err := unix.Getxattr(host, "system.posix_acl_access", nil)
	return n > 0 || err != nil && err != unix.ENODATA && err != unix.EOPNOTSUPP
}

// CheckMake says why nothing can be made at a path inside; nil: something can, or that cannot be
// told. Folders on the way that are missing the viewer may make too.
func (v *View) CheckMake(name string) error {
	for at := path.Dir(name); ; at = path.Dir(at) {
		spot, err := v.Find(at)
		switch {
		case errors.Is(err, unix.ENOENT) && at != "/":
			continue
		case errors.Is(err, errUnknown):
			return nil
		case err != nil:
			return err
		case !spot.Folder():
			return unix.ENOTDIR
		case v.isReadOnly(spot):
			return unix.EROFS
		case !v.Allows(spot, 2|1):
			return unix.EACCES
		}
		return nil
	}
}

// isReadOnly reports whether a spot lies where nothing can be written.
func (v *View) isReadOnly(s Spot) bool {
	if s.Locked {
		return true
	}
	for _, p := range slices.Backward(v.mounts) {
		if spec.IsBelow(s.Path, p.at) && (p.isBind() || p.Kind == entryTmpfs || p.Kind == entryCover) {
			return !p.unknown && p.Kind != entryWritable && p.Kind != entryTmpfs
		}
	}
	return true // the root itself
}

// NoExec reports whether nothing can be executed where the spot is.
func (s Spot) NoExec() bool {
	var stat unix.Statfs_t
	return s.Host != "" && unix.Statfs(s.Host, &stat) == nil && stat.Flags&unix.ST_NOEXEC != 0
}

// Open opens a file to read it, or only to look at it (O_PATH), as we may. What we
// cannot open is [errUnknown].
func (v *View) Open(name string, flags uint64) (*os.File, error) {
	spot, err := v.Find(name)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	if spot.Host == "" {
		return nil, &os.PathError{Op: "open", Path: name, Err: unix.EISDIR}
	}
	fd, err := unix.Open(spot.Host, int(flags)|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: errUnknown}
	}
	return os.NewFile(uintptr(fd), name), nil
}
