package process

import (
	"debug/elf"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"activator/internal/ktest"
	"activator/internal/spec"
)

// finds is what an examination of spec finds, as text.
func finds(process spec.Process) string {
	var e Examiner
	var all []string
	for _, one := range e.Examine(process) {
		all = append(all, one.Error())
	}
	return strings.Join(all, "\n")
}

// runs reports whether a program starts and ends well, and why it does not start.
func runs(t *testing.T, process spec.Process) (well bool, why error) {
	t.Helper()
	s, err := prepare(t, process)
	if err == nil {
		err = s.Go(t.Context())
	}
	if err != nil {
		return false, err
	}
	exit, err := s.Wait()
	return err == nil && exit.OK(), err
}

// A root gets what a program needs, one after the other. Each time an examination knows
// what is missing, and the program starts when it knows of nothing.
func TestExamineLibraries(t *testing.T) {
	ktest.Filters(t)
	host := findProgram(t, "/usr/bin/true", "/bin/true")
	loader, needed := loaderAndLibraries(t, host)
	if !strings.Contains(loader, "/ld-linux") || len(needed) != 1 {
		ktest.Skip(t, "%s needs %q by %s: not glibc's loader and one library", host, needed, loader)
	}
	library := needed[0]
	root := shared(t)
	process := sandboxed("/app/bin/true")
	process.Sandbox.Root = root
	missing := func(what string) string {
		return "exec /app/bin/true: no such file or directory: its " + what + " is not there inside; mount it with read_only"
	}
	check := func(step string, process spec.Process, want string) {
		t.Helper()
		if got := finds(process); got != want {
			t.Errorf("%s: found %q, want %q", step, got, want)
		}
		if ran, err := runs(t, process); ran != (want == "") {
			t.Errorf("%s: it ran is %v (%v), and what was found %q", step, ran, err, want)
		}
	}
	put := func(name, from string) {
		t.Helper()
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		write(t, root+name, string(data), 0o755)
	}
	put("/app/bin/true", host)
	check("nothing", process, missing("interpreter "+loader))
	put(loader, loader)
	check("a loader", process, missing("library "+library)+", or install it")

	from, err := filepath.Glob("/usr/lib*/*/" + library)
	if err != nil || len(from) == 0 {
		from = []string{filepath.Join(filepath.Dir(loader), library)}
	}
	put("/odd/"+library, from[0])
	check("a library somewhere", process, missing("library "+library)+", or install it")
	told := process
	told.Env = append(told.Env, "LD_LIBRARY_PATH=/odd")
	check("and where", told, "")
	put("/usr/lib/"+library, from[0])
	check("a library where it belongs", process, "")
}

// loaderAndLibraries is what a program of the host's is started by, and needs.
func loaderAndLibraries(t *testing.T, file string) (loader string, libraries []string) {
	t.Helper()
	f, err := elf.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, segment := range f.Progs {
		if segment.Type == elf.PT_INTERP {
			text, err := io.ReadAll(segment.Open())
			if err != nil {
				t.Fatal(err)
			}
			loader = strings.TrimRight(string(text), "\x00")
		}
	}
	if libraries, err = f.ImportedLibraries(); err != nil {
		t.Fatal(err)
	}
	return loader, libraries
}

// What is installed here, and works, has nothing that could be found: static and dynamic
// programs, scripts of shells, Perl and Python, of env and of musl.
func TestExamineFindsNothingWrong(t *testing.T) {
	for _, name := range []string{"sh", "true", "env", "cat", "python3", "perl", "git", "busybox", "socat", "curl", "nginx", "redis-server",
		"gunicorn", "node", "haproxy", "sshd", "ldd", "memcached", "unbound", "dnsmasq", "caddy", "postgres"} {
		for _, folder := range []string{"/usr/bin/", "/usr/sbin/", "/bin/"} {
			if _, err := os.Stat(folder + name); err != nil {
				continue
			}
			if got := finds(sandboxed(folder + name)); got != "" {
				t.Errorf("%s: %s", folder+name, got)
			}
			if got := finds(sandboxed(name)); got != "" {
				t.Errorf("%s in PATH: %s", name, got)
			}
		}
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if got := finds(sandboxed(exe)); got != "" {
		t.Errorf("this very program: %s", got)
	}
}

// Directories that cannot be made, and those that can.
func TestExamineDirectories(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root's folders are the machine's")
	}
	dir := shared(t)
	for variable, name := range map[string]string{"XDG_STATE_HOME": "state", "XDG_CACHE_HOME": "cache", "XDG_RUNTIME_DIR": "run"} {
		t.Setenv(variable, filepath.Join(dir, name))
	}
	write(t, dir+"/state/file", "", 0o644)
	write(t, dir+"/run/there/file", "", 0o644)
	if err := os.Mkdir(dir+"/cache", 0o555); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		directory spec.Directory
		want      string
	}{
		{spec.Directory{Kind: "state", Name: "new/deep"}, ""},
		{spec.Directory{Kind: "runtime", Name: "there"}, ""},
		{spec.Directory{Kind: "state", Name: "file"}, "directory " + dir + "/state/file: not a directory"},
		{spec.Directory{Kind: "state", Name: "file/below"}, "directory " + dir + "/state/file/below: not a directory"},
		{spec.Directory{Kind: "cache", Name: "new"}, "directory " + dir + "/cache/new: permission denied"},
	} {
		process := sandboxed("/bin/true")
		process.Directories = []spec.Directory{test.directory}
		if got := finds(process); !strings.HasPrefix(got, test.want) || (got == "") != (test.want == "") {
			t.Errorf("%v: %q, want %q", test.directory, got, test.want)
		}
	}
	if _, err := os.Stat(dir + "/state/new"); !os.IsNotExist(err) {
		t.Errorf("a folder has been made: %v", err)
	}
}
