package process

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"activator/internal/ktest"
	"activator/internal/sandbox"
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
	host := program(t, "/usr/bin/true", "/bin/true")
	text, err := os.ReadFile(host)
	if err != nil {
		t.Fatal(err)
	}
	loader := interpreterOf(bytes.NewReader(text))
	needed, ok := dynamicOf(bytes.NewReader(text))
	if !strings.Contains(loader, "/ld-linux") || !ok || len(needed.needed) != 1 {
		ktest.Skip(t, "%s needs %q by %s: not glibc's loader and one library", host, needed.needed, loader)
	}
	library := needed.needed[0]
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

	from := (&libraries{inside: hostView(t), seen: map[string]bool{}, cache: hostCache()}).find(library)
	put("/odd/"+library, from)
	check("a library somewhere", process, missing("library "+library)+", or install it")
	told := process
	told.Env = append(told.Env, "LD_LIBRARY_PATH=/odd")
	check("and where", told, "")
	put("/usr/lib/"+library, from)
	check("a library where it belongs", process, "")
}

// hostView is what a service sees in the default root.
func hostView(t *testing.T) inside {
	t.Helper()
	view, refused := sandbox.NewView(spec.Sandbox{}, "sh", nil, sandbox.Viewer{UID: sandbox.NoID, GID: sandbox.NoID})
	if len(refused) > 0 {
		t.Fatal(refused)
	}
	return inside{view: view}
}

func hostCache() []byte {
	text, _ := os.ReadFile("/etc/ld.so.cache")
	return text
}

// find looks in the cache and in the folders that every loader knows.
func (l *libraries) find(name string) string {
	for _, top := range []string{"/lib", "/lib64", "/usr/lib", "/usr/lib64"} {
		for _, machine := range machineFolders {
			l.folders = append(l.folders, top+machine)
		}
	}
	return l.searchLibrary(name)
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

// What stands after #! is found as env(1) finds it, or not looked for.
func TestSearchOf(t *testing.T) {
	const own, none = "/own", "/bin:/usr/bin"
	for _, test := range []struct{ line, want, path, cure string }{
		{"#!/usr/bin/env python3\n", "python3", own, ""},
		{"#! /usr/bin/env\tpython3 \n", "python3", own, ""},
		{"#!/usr/bin/env /bin/python3\n", "/bin/python3", own, ""},
		{"#!/usr/bin/env python3\r\n", "python3\r", own, ""},
		{"#!/usr/bin/env python3 -u\n", "python3 -u", own, "write #!/usr/bin/env -S python3 -u"},
		{"#!/usr/bin/env -i python3\n", "-i python3", own, "write #!/usr/bin/env -S -i python3"},
		{"#!/usr/bin/env -S python3 -u\n", "python3", own, ""},
		{"#!/usr/bin/env -Spython3 -u\n", "python3", own, ""},
		{"#!/usr/bin/env -S A=b python3\n", "python3", own, ""},
		{"#!/usr/bin/env -S PATH=/x python3\n", "python3", "/x", ""},
		{"#!/usr/bin/env -S -i A=b python3 -u\n", "python3", none, ""},
		{"#!/usr/bin/env -S -i PATH=/x python3\n", "python3", "/x", ""},
		{"#!/usr/bin/env -S -u A python3\n", "", "", ""},
		{"#!/usr/bin/env -S ${A} python3\n", "", "", ""},
		{"#!/usr/bin/env -u A\n", "", "", ""},
		{"#!/usr/bin/env -i\n", "", "", ""},
		{"#!/usr/bin/env A=b\n", "", "", ""},
		{"#!/usr/bin/env\n", "", "", ""},
		{"#!/usr/bin/env -S\n", "", "", ""},
		{"#!/usr/bin/env cut", "", "", ""},
		{"#!/bin/sh\n", "", "", ""},
		{"#! /bin/sh -e\n", "", "", ""},
	} {
		interpreter := interpreterOf(strings.NewReader(test.line))
		got, cure := searchOf(interpreter, []byte(test.line), []string{"PATH=" + own})
		if got.name != test.want || pathOf(got.env) != test.path || cure != test.cure {
			t.Errorf("%q: %q in %q, cure %q; want %q", test.line, got.name, got.env, cure, test)
		}
	}
}

// Entries of binfmt_misc are read as the kernel writes them, and taken as it takes them.
func TestFormats(t *testing.T) {
	dir := shared(t)
	if _, known := readFormats(dir); known {
		t.Error("an empty folder is one where nothing is mounted")
	}
	write(t, dir+"/register", "", 0o200)
	write(t, dir+"/status", "enabled\n", 0o644)
	write(t, dir+"/qemu", "enabled\ninterpreter /usr/bin/qemu\nflags: OC\noffset 0\nmagic 7f454c4602\nmask fffffffffe\n", 0o644)
	write(t, dir+"/deep", "enabled\ninterpreter /x\nflags: \noffset 2\nmagic 6869\n", 0o644)
	write(t, dir+"/script", "enabled\ninterpreter /x\nflags: \nextension .py\n", 0o644)
	write(t, dir+"/off", "disabled\ninterpreter /x\nflags: \noffset 0\nmagic 6f66\n", 0o644)
	all, known := readFormats(dir)
	if !known || len(all) != 3 {
		t.Fatalf("%+v, %v", all, known)
	}
	for _, test := range []struct {
		name, head string
		want       bool
	}{
		{"/a", "\x7fELF\x02...", true}, {"/a", "\x7fELF\x03", true}, {"/a", "\x7fELF\x01", false}, {"/a", "\x7fELF", false},
		{"/a", "..hi", true}, {"/a", "hi", false}, {"/a.py", "", true}, {"/apy", "", false}, {"/a", "of", false},
	} {
		if got := slices.ContainsFunc(all, func(f format) bool { return f.isFor(test.name, []byte(test.head)) }); got != test.want {
			t.Errorf("%q %q: %v", test.name, test.head, got)
		}
	}
	write(t, dir+"/status", "disabled\n", 0o644)
	if all, known := readFormats(dir); !known || len(all) > 0 {
		t.Errorf("switched off: %v, %v", all, known)
	}
}

// A broken or strange file is nothing that could be told.
func FuzzDynamic(f *testing.F) {
	if text, err := os.ReadFile("/bin/true"); err == nil {
		f.Add(text)
	}
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(_ *testing.T, text []byte) {
		r := bytes.NewReader(text)
		dynamicOf(r)
		interpreterOf(r)
		forThisMachine(text)
	})
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
