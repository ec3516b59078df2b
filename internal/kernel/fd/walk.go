package fd

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// LinkError says that a link was not followed, as another user may have put it there.
type LinkError struct {
	Path string // that was asked for
	Link string // that stands on the way
	Why  string // whose folder it is
}

func (e *LinkError) Error() string { return "open " + e.Path + ": " + e.Reason() + "; " + e.Advice() }

// Reason names the link.
func (e *LinkError) Reason() string {
	return e.Link + " is a symbolic link below " + e.Why + ", and not followed"
}

// Advice is what helps.
func (e *LinkError) Advice() string {
	return "name the path that it leads to, or put that in its place"
}

// Unwrap is what the kernel says of a link that it may not follow.
func (e *LinkError) Unwrap() error { return unix.ELOOP }

// CuredError is an error that says what helps.
type CuredError struct {
	Err  error
	Cure string
}

func (e *CuredError) Error() string { return e.Err.Error() + "; " + e.Cure }

func (e *CuredError) Unwrap() error { return e.Err }

// Advice is what helps.
func (e *CuredError) Advice() string { return e.Cure }

// Place is a name in a folder. Whether anything stands there is not said.
type Place struct {
	*Folder
	Name string // "." for the folder itself

	magic bool // a link of /proc to what is no path
}

// Path is where it is, without a link.
func (p *Place) Path() string { return filepath.Join(p.Folder.path, p.Name) }

// Magic reports whether only the kernel can follow the path: a link in /proc.
func (p *Place) Magic() bool { return p.magic }

// Open opens what stands at the place, and no link. The caller closes the descriptor.
func (p *Place) Open(flags int, mode uint32) (int, error) {
	if p.magic {
		return openAt(p.fd, p.Name, flags, mode)
	}
	return p.Folder.Open(p.Name, flags, mode)
}

// OpenPath opens what stands at the place, to look at. The caller closes the descriptor, which
// is one of O_PATH.
func (p *Place) OpenPath() (int, error) {
	fd, err := p.Open(unix.O_PATH, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: p.Path(), Err: err}
	}
	return fd, nil
}

// mostLinks is where the kernel gives up too, path_resolution(7).
const mostLinks = 40

// walk is a walk under way.
type walk struct {
	asked string
	at    *Folder
	rest  []string
	links int
	make  uint32 // the mode of folders that are made; 0: none is
	exact bool   // whatever the umask is
	last  bool   // a link at the end is followed too
}

// WalkTo walks to an absolute path, of which the last component may be missing. A link there
// is followed like the others. The caller closes the place.
func WalkTo(path string) (*Place, error) { return (&walk{asked: path, last: true}).walkPath() }

// WalkToParent walks to the folder of an absolute path, for what is done with the name
// itself. The caller closes the place.
func WalkToParent(path string) (*Place, error) { return (&walk{asked: path}).walkPath() }

// MakeParents is WalkToParent that makes the folders that are missing, with a mode that
// the umask does not touch.
func MakeParents(path string, mode uint32) (*Place, error) {
	return (&walk{asked: path, make: mode, exact: true}).walkPath()
}

// OpenFolder walks to a folder. The caller closes it.
func OpenFolder(path string) (*Folder, error) { return openFolder(path, 0) }

// MakeFolder is OpenFolder that makes what is missing, with a mode less the umask.
func MakeFolder(path string, mode uint32) (*Folder, error) { return openFolder(path, mode) }

func openFolder(path string, mode uint32) (*Folder, error) {
	// With one name more the folder is on the way.
	place, err := (&walk{asked: path, make: mode, last: true}).walkNames(append(splitPath(path), "."))
	if err != nil {
		return nil, err
	}
	return place.Folder, nil
}

func splitPath(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

func (w *walk) walkPath() (*Place, error) {
	return w.walkNames(splitPath(filepath.Clean(w.asked)))
}

func (w *walk) walkNames(names []string) (place *Place, err error) {
	if !filepath.IsAbs(w.asked) {
		return nil, &os.PathError{Op: "open", Path: w.asked, Err: unix.EINVAL}
	}
	if w.at, err = openRoot(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			w.at.Close()
		}
	}()
	for w.rest = names; len(w.rest) > 0; {
		name := w.rest[0]
		w.rest = w.rest[1:]
		if len(w.rest) == 0 && (name == "." || !w.last) {
			return &Place{Folder: w.at, Name: name}, nil
		}
		arrived, err := w.takeStep(name)
		if err != nil {
			return nil, err
		}
		if arrived != nil {
			return arrived, nil
		}
	}
	return &Place{Folder: w.at, Name: "."}, nil
}

// takeStep goes on to a name, and returns the place if that is the last one.
func (w *walk) takeStep(name string) (*Place, error) {
	switch name {
	case ".":
		return nil, nil
	case "..": // of a link's target
		return nil, w.goUp()
	}
	here, end := &Place{Folder: w.at, Name: name}, len(w.rest) == 0
	path := here.Path()
	fd, s, err := w.openNext(name)
	switch {
	case err == unix.ENOENT && end:
		return here, nil
	case err == unix.ENOENT && w.make != 0:
		if err := w.at.makeFolder(name, w.make, w.exact); err != nil {
			return nil, err
		}
		fd, s, err = w.openNext(name)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	switch {
	case s.is(unix.S_IFLNK):
		_ = unix.Close(fd)
		return w.followLink(here, end)
	case end:
		_ = unix.Close(fd)
		return here, nil
	case !s.is(unix.S_IFDIR):
		_ = unix.Close(fd)
		return nil, &os.PathError{Op: "open", Path: path, Err: unix.ENOTDIR}
	}
	w.enterFolder(w.at.makeChild(name, fd, &s))
	return nil, nil
}

func (w *walk) enterFolder(f *Folder) {
	w.at.Close()
	w.at = f
}

func (w *walk) openNext(name string) (fd int, s status, err error) {
	if fd, err = w.at.Open(name, unix.O_PATH, 0); err != nil {
		return -1, s, err
	}
	if s, err = readStatus(fd); err != nil {
		_ = unix.Close(fd)
	}
	return fd, s, err
}

// goUp goes to the folder above. That can be judged only from the top.
func (w *walk) goUp() error {
	if w.at.trust != ours {
		return &LinkError{Path: w.asked, Link: filepath.Join(w.at.path, ".."), Why: w.at.why}
	}
	return w.restartAt(filepath.Dir(w.at.path))
}

// restartAt goes on from the top, to a path and then to the rest.
func (w *walk) restartAt(path string) error {
	top, err := openRoot()
	if err != nil {
		return err
	}
	w.enterFolder(top)
	w.rest = append(splitPath(path), w.rest...)
	return nil
}

// followLink goes where a link leads.
func (w *walk) followLink(here *Place, end bool) (*Place, error) {
	if w.at.trust != ours {
		return nil, &LinkError{Path: w.asked, Link: here.Path(), Why: w.at.why}
	}
	if w.hasMagicLinks() {
		if here.magic = true; end {
			return here, nil
		}
		return nil, w.jumpTo(here)
	}
	if w.links++; w.links > mostLinks {
		return nil, &os.PathError{Op: "open", Path: w.asked, Err: unix.ELOOP}
	}
	target, err := w.at.ReadLink(here.Name)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(target, "/") {
		return nil, w.restartAt(target)
	}
	w.rest = append(splitPath(target), w.rest...)
	return nil, nil
}

// hasMagicLinks reports whether links here are to what is no path, proc(5): of what lies in /proc
// all but those at its top (whose inode is 1).
func (w *walk) hasMagicLinks() bool {
	var kind unix.Statfs_t
	return w.at.id.Ino != 1 && unix.Fstatfs(w.at.fd, &kind) == nil && kind.Type == unix.PROC_SUPER_MAGIC
}

// jumpTo goes to a folder that stands at no path: which users may write what lies above it is not known.
func (w *walk) jumpTo(here *Place) error {
	fd, err := here.Open(unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: here.Path(), Err: err}
	}
	s, err := readStatus(fd)
	if err != nil {
		_ = unix.Close(fd)
		return &os.PathError{Op: "stat", Path: here.Path(), Err: err}
	}
	f := w.at.makeChild(here.Name, fd, &s)
	f.steady, f.trust, f.why = false, foreign, here.Path()+", of which nobody knows who may write it"
	w.enterFolder(f)
	return nil
}

// ClaimFolders says that services may write these folders, and everything below them.
func ClaimFolders(paths ...string) {
	claimed.Lock()
	for _, path := range paths {
		claimed.paths[filepath.Clean(path)] = true
	}
	claimed.Unlock()
	// Twice: a link may lead into a folder that is known only by another path at
	// first.
	for range 2 {
		for _, path := range paths {
			claimFolder(filepath.Clean(path))
		}
	}
}

// claimFolder notes a folder as it is now, or where it will be.
func claimFolder(path string) {
	f, missing := openNearest(path)
	if f == nil {
		return
	}
	defer f.Close()
	real := filepath.Join(f.path, missing)
	claimed.Lock()
	defer claimed.Unlock()
	claimed.paths[real] = true
	if missing == "" {
		claimed.ids[f.id] = real
	}
}

// ResolvePath is an absolute path without links, as far as folders are there, and as far as we
// follow links.
func ResolvePath(path string) string {
	f, missing := openNearest(path)
	if f == nil {
		return path
	}
	defer f.Close()
	return filepath.Join(f.path, missing)
}

// openNearest opens the folder at a path, or the nearest above it that is there, and says what
// is missing below that. The caller closes it.
func openNearest(path string) (f *Folder, missing string) {
	for at := path; ; at = filepath.Dir(at) {
		f, err := OpenFolder(at)
		if err == nil {
			return f, missing
		}
		if at == "/" {
			return nil, missing
		}
		missing = filepath.Join(filepath.Base(at), missing)
	}
}
