package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"activator/internal/config"
	"activator/internal/output"
	"activator/internal/spec"
)

// findBeside returns the arguments that are files beside the configuration and that the program
// will not find: it has another root, and starts in working_directory.
func findBeside(conf spec.Service) (found []string) {
	if conf.Container != nil || conf.Bare {
		return nil
	}
	for i, argument := range conf.Argv {
		if i == 0 || argument == "" || filepath.IsAbs(argument) || strings.HasPrefix(argument, "-") {
			continue
		}
		beside := filepath.Join(filepath.Dir(conf.File), argument)
		if info, err := os.Stat(beside); err != nil || !info.Mode().IsRegular() || isThereInside(conf, argument) {
			continue
		}
		found = append(found, fmt.Sprintf("argument %d, %q, is a file beside the configuration, and is not there inside: write %q, and in [sandbox] read_only = [%q]",
			i, argument, beside, beside))
	}
	return found
}

// findFIFOs returns the FIFOs that a service prints to: without a reader it cannot be started.
func findFIFOs(source config.Source) (found []string) {
	for key, path := range outputFiles(source) {
		if output.IsFIFO(path) {
			found = append(found, fmt.Sprintf("%s: %s is a FIFO: the service is started only while somebody reads it", strings.TrimPrefix(key, "service."), path))
		}
	}
	return found
}

// isThereInside reports whether a relative path leads to something inside, as far as the
// configuration tells.
func isThereInside(conf spec.Service, path string) bool {
	path = filepath.Join("/", conf.Dir, path)
	for _, m := range slices.Concat(conf.Sandbox.ReadOnly, conf.Sandbox.Writable) {
		if rest, below := strings.CutPrefix(path, m.Inside); below && (rest == "" || rest[0] == '/' || m.Inside == "/") {
			return isFile(m.Host + rest)
		}
	}
	if conf.Sandbox.Root != "" {
		return isFile(filepath.Join(conf.Sandbox.Root, path))
	}
	top, _, _ := strings.Cut(path[1:], "/")
	return slices.Contains([]string{"usr", "etc", "bin", "sbin", "lib", "lib64"}, top) && isFile(path)
}

func isFile(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
