package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxFile is in bytes; what is larger is no configuration.
const maxFile = 1 << 20

// Load reads files and folders; of a folder every *.toml in it, in the order of
// their names, but no folders below it and no hidden files. A file that is named
// twice is read once. A file may be a pipe, as of <(...) in a shell: it is read until its
// writers end. Its error is an [Errors] with everything that is wrong in
// all of them, two services of one name or one address among it.
func Load(paths []string, env Env) ([]Source, error) { return loadFiles(paths, env, true) }

// LoadAgain is Load for what was loaded before: it takes no pipe, which has no more to say, or whose
// writer could be waited for without end.
func LoadAgain(paths []string, env Env) ([]Source, error) { return loadFiles(paths, env, false) }

func loadFiles(paths []string, env Env, pipes bool) ([]Source, error) {
	files, errs := findFiles(paths, env, pipes)
	var all []*parsed
	first := make(map[string]*parsed, len(files))
	for _, file := range files {
		text, err := readFile(file, pipes)
		if err != nil {
			errs = append(errs, newFileError(file, err))
			continue
		}
		p := parseFile(file, text, env)
		if twin := first[p.name]; twin != nil {
			p.addFileError("", fmt.Sprintf("a second service called %s: the first is %s", p.name, twin.file), "the name of a file is that of its service; give it another")
		} else {
			first[p.name] = p
		}
		all = append(all, p)
	}
	checkCollisions(all)
	sources := make([]Source, len(all))
	for i, p := range all {
		errs = append(errs, p.listErrors()...)
		sources[i] = Source{p.service, p}
	}
	if err := errs.OrNil(); err != nil {
		return nil, err
	}
	return sources, nil
}

// findFiles lists the files that paths mean, each once.
func findFiles(paths []string, env Env, pipes bool) (files []string, errs Errors) {
	seen := make(map[string]bool)
	for _, path := range paths {
		found, bad := expandFolder(path, pipes)
		errs = append(errs, bad...)
		for _, file := range found {
			if id := identifyFile(file, env); !seen[id] {
				seen[id] = true
				files = append(files, file)
			}
		}
	}
	return files, errs
}

// identifyFile tells files apart: by where they are and by what they call the
// service, since a link to a file may give it another name.
func identifyFile(file string, env Env) string {
	if !filepath.IsAbs(file) {
		file = filepath.Join(env.Dir, file)
	}
	place, err := filepath.EvalSymlinks(file)
	if err != nil {
		place = filepath.Clean(file)
	}
	return place + "\x00" + filepath.Base(file)
}

func expandFolder(path string, pipes bool) (files []string, errs Errors) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, Errors{newFileError(path, err)}
	}
	if !info.IsDir() {
		// Before it is opened: to open a device may do something.
		if err := refuseKind(info.Mode(), pipes); err != nil {
			return nil, Errors{newFileError(path, err)}
		}
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, Errors{newFileError(path, err)}
	}
	for _, e := range entries {
		file := filepath.Join(path, e.Name())
		if !strings.HasSuffix(file, ".toml") || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		info, err := os.Stat(file)
		switch {
		case err != nil || info.Mode().IsRegular(): // an error comes again when it is read
			files = append(files, file)
		case !info.IsDir():
			errs = append(errs, &Error{File: file, Text: "is no file: in a folder of configuration every *.toml must be one"})
		}
	}
	if files == nil && errs == nil {
		return nil, Errors{newFileError(path, errors.New("there is no *.toml in this folder"))}
	}
	return files, errs
}

// refuseKind refuses what has no text to the end of which one could read: devices, sockets, and pipes, if they are not
// taken.
func refuseKind(mode fs.FileMode, pipes bool) error {
	switch kind := mode.Type(); {
	case kind == 0, pipes && kind == fs.ModeNamedPipe:
		return nil
	case kind == fs.ModeNamedPipe:
		return wrong("write the configuration into a file: a pipe is read at the start alone", "is a pipe, which cannot be read again")
	}
	return wrong("", "is no file")
}

func readFile(path string, pipes bool) ([]byte, error) {
	// To open a FIFO does not wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err == nil {
		err = refuseKind(info.Mode(), pipes) // another file may stand there by now
	}
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err == nil && len(text) > maxFile:
		err = errors.New("is larger than 1 MiB")
	case err == nil && len(text) == 0 && !info.Mode().IsRegular():
		err = wrong("start its writer first", "is a pipe into which nobody has written")
	}
	return text, err
}

func newFileError(file string, err error) *Error {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = fmt.Errorf("%s: %w", path.Op, path.Err)
	}
	var m *mistake
	if errors.As(err, &m) {
		return &Error{File: file, Text: m.text, Cure: m.cure}
	}
	return &Error{File: file, Text: err.Error()}
}
