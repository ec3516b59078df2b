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
// twice is read once. Its error is an [Errors] with everything that is wrong in
// all of them, two services of one name or one address among it.
func Load(paths []string, env Env) ([]Source, error) {
	files, errs := findFiles(paths, env)
	var all []*parsed
	first := make(map[string]*parsed, len(files))
	for _, file := range files {
		text, err := readFile(file)
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
func findFiles(paths []string, env Env) (files []string, errs Errors) {
	seen := make(map[string]bool)
	for _, path := range paths {
		found, bad := expandFolder(path)
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

func expandFolder(path string) (files []string, errs Errors) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, Errors{newFileError(path, err)}
	}
	if !info.IsDir() {
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

func readFile(path string) ([]byte, error) {
	// A FIFO without a writer must not hold up a reload.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = errors.New("is larger than 1 MiB")
	}
	return text, err
}

func newFileError(file string, err error) *Error {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = fmt.Errorf("%s: %w", path.Op, path.Err)
	}
	return &Error{File: file, Text: err.Error()}
}
