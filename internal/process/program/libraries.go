package program

import (
	"bytes"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// libraries is a search for what a program needs, as wide as any loader's would be: it
// finds too much rather than too little. ld.so(8), and musl's own.
type libraries struct {
	Root
	musl    bool
	folders []string // in which to look; grows with what libraries say
	cache   []byte   // of ldconfig(8)
	seen    map[string]bool
	unsure  bool // something is said that we do not understand
}

// machineFolders are of Debian's kind, by architecture.
var machineFolders = []string{"", "/x86_64-linux-gnu", "/aarch64-linux-gnu", "/x86_64-linux-musl", "/aarch64-linux-musl"}

// examineLibraries says which library of a program is nowhere inside.
func (r Root) examineLibraries(program, loader string, env []string) error {
	name := filepath.Base(loader)
	l := &libraries{Root: r, musl: strings.HasPrefix(name, "ld-musl-"), seen: map[string]bool{name: true}}
	if !l.musl && !strings.HasPrefix(name, "ld-linux") {
		return nil // another system's, which may look anywhere
	}
	for _, entry := range env {
		if strings.HasPrefix(entry, "LD_PRELOAD=") || strings.HasPrefix(entry, "LD_AUDIT=") {
			return nil
		}
		if paths, ok := strings.CutPrefix(entry, "LD_LIBRARY_PATH="); ok {
			l.addFolders(program, strings.FieldsFunc(paths, func(r rune) bool { return r == ':' || r == ';' }))
		}
	}
	for _, top := range []string{"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64", path.Dir(loader)} {
		for _, machine := range machineFolders {
			l.folders = append(l.folders, top+machine)
		}
	}
	if l.musl {
		l.addFolders(program, strings.FieldsFunc(string(l.readText("/etc/"+strings.TrimSuffix(name, ".so.1")+".path")), func(r rune) bool { return r == ':' || r == '\n' }))
	}
	l.cache = l.readText("/etc/ld.so.cache")
	missing := l.findMissing(program)
	if missing == "" || l.unsure {
		return nil
	}
	return execError(program, syscall.ENOENT, "its library "+missing+" is not there inside", "mount it with read_only, or install it")
}

// readText is a whole file inside; nil where there is none.
func (l *libraries) readText(name string) []byte {
	f, err := l.OpenFile(name, unix.O_RDONLY)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, 16<<20))
	if err != nil {
		return nil
	}
	return data
}

// findMissing is the first library that file needs, directly or not, and that is nowhere.
func (l *libraries) findMissing(file string) string {
	f, err := l.OpenFile(file, unix.O_RDONLY)
	if err != nil {
		l.unsure = true
		return ""
	}
	defer func() { _ = f.Close() }()
	d, ok := dynamicOf(f)
	l.unsure = l.unsure || !ok
	l.addFolders(file, d.paths)
	for _, name := range d.needed {
		if l.seen[name] || l.musl && muslOwn(name) {
			continue
		}
		l.seen[name] = true
		found := l.searchLibrary(name)
		if found == "" {
			return name
		}
		if missing := l.findMissing(found); missing != "" || l.unsure {
			return missing
		}
	}
	return ""
}

// muslOwn reports whether musl's loader is this library itself.
func muslOwn(name string) bool {
	return slices.ContainsFunc([]string{"libc.", "libpthread.", "librt.", "libm.", "libdl.", "libutil.", "libxnet."},
		func(own string) bool { return strings.HasPrefix(name, own) })
}

// addFolders adds folders that file names.
func (l *libraries) addFolders(file string, folders []string) {
	for _, folder := range folders {
		spot, err := l.View.Find(file)
		if err != nil {
			l.unsure = true
			return
		}
		for _, origin := range []string{path.Dir(file), path.Dir(spot.Path)} {
			at := strings.NewReplacer("${ORIGIN}", origin, "$ORIGIN", origin).Replace(folder)
			if strings.Contains(at, "$") || !path.IsAbs(at) {
				l.unsure = true
			}
			l.folders = append(l.folders, at)
		}
	}
}

// searchLibrary is where a library is; "": nowhere.
func (l *libraries) searchLibrary(name string) string {
	if strings.Contains(name, "/") {
		l.unsure = l.unsure || !path.IsAbs(name)
		return l.pathOfFile(name)
	}
	for _, folder := range l.folders {
		for _, variant := range []string{"", "/glibc-hwcaps/x86-64-v2", "/glibc-hwcaps/x86-64-v3", "/glibc-hwcaps/x86-64-v4"} {
			if found := l.pathOfFile(folder + variant + "/" + name); found != "" {
				return found
			}
		}
	}
	// Paths stand in the cache as texts that end with NUL.
	end := []byte("/" + name + "\x00")
	for rest := l.cache; ; {
		at := bytes.Index(rest, end)
		if at < 0 {
			return ""
		}
		start := bytes.LastIndexByte(rest[:at], 0) + 1
		if found := l.pathOfFile(string(rest[start : at+len(end)-1])); found != "" {
			return found
		}
		rest = rest[at+len(end):]
	}
}

// pathOfFile is the path, if a file is.
func (l *libraries) pathOfFile(name string) string {
	spot, err := l.View.Find(name)
	if _, isErrno := err.(syscall.Errno); err != nil && !isErrno { //nolint:errorlint // Find wraps nothing
		l.unsure = true
	}
	if err != nil || spot.Stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return ""
	}
	return name
}
