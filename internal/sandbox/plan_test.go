package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"activator/internal/spec"
)

func paths(entries []rootEntry) []string {
	var list []string
	for _, entry := range entries {
		list = append(list, entry.Path)
	}
	return list
}

func find(plan *Plan, path string) (rootEntry, bool) {
	at := slices.IndexFunc(plan.entries, func(e rootEntry) bool { return e.Path == path })
	if at < 0 {
		return rootEntry{}, false
	}
	return plan.entries[at], true
}

func TestResolveDefault(t *testing.T) {
	plan, err := NewPlan(spec.Sandbox{}, "x", "/home/me/program", nil, Inside{})
	if err != nil {
		t.Fatal(err)
	}
	if plan.keep != 0 || plan.newPrivs {
		t.Errorf("%+v", plan)
	}
	for path, kind := range map[string]entryKind{"/usr": entryReadOnly, "/etc": entryReadOnly, "/dev": entryFolder, "/dev/null": entryDevice, "/tmp": entryTmpfs, "/run": entryTmpfs, "/var": entryTmpfs, "/home/me/program": entryReadOnly} {
		if entry, ok := find(plan, path); !ok || entry.Kind != kind {
			t.Errorf("%s: %v, %+v", path, ok, entry)
		}
	}
	for _, path := range []string{"/home", "/root", "/proc", "/sys", "/opt", "/mnt"} {
		if entry, ok := find(plan, path); ok {
			t.Errorf("%+v", entry)
		}
	}
}

func TestCoversAreRealFolders(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"usr/lib/modules", "other"} {
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("usr/lib", filepath.Join(dir, "lib")); err != nil {
		t.Fatal(err)
	}
	real, linked, missing := filepath.Join(dir, "usr/lib/modules"), filepath.Join(dir, "lib/modules"), filepath.Join(dir, "none")
	if got := paths(coverFolders([]string{real, linked, missing})); !slices.Equal(got, []string{real}) {
		t.Errorf("covered: %q, want only %s", got, real)
	}
}

func TestProgramIsBoundOnlyWhereItIsHidden(t *testing.T) {
	for _, test := range []struct {
		spec    spec.Sandbox
		program string
		bound   bool
	}{
		{spec.Sandbox{}, "/usr/bin/true", false},
		{spec.Sandbox{}, "/bin/true", false},
		{spec.Sandbox{}, "true", false},
		{spec.Sandbox{}, "/usrlocal/true", true},
		{spec.Sandbox{}, "/tmp/true", true},
		{spec.Sandbox{}, "/opt/../tmp/true", true},
		{spec.Sandbox{ReadOnly: []spec.Mount{{Host: "/a", Inside: "/opt"}}}, "/opt/true", false},
		{spec.Sandbox{Tmpfs: []string{"/opt"}}, "/opt/true", false}, // hidden on purpose
		{spec.Sandbox{Root: "/usr"}, "/tmp/true", false},
	} {
		plan, err := NewPlan(test.spec, "x", test.program, nil, Inside{})
		if err != nil {
			t.Fatal(err)
		}
		if entry, ok := find(plan, filepath.Clean(test.program)); ok != test.bound {
			t.Errorf("%+v %s: %v, %+v", test.spec, test.program, ok, entry)
		}
	}
}

func TestParentsAreMountedFirst(t *testing.T) {
	policy := spec.Sandbox{
		Tmpfs:    []string{"/data/x/y", "/data"},
		ReadOnly: []spec.Mount{{Host: "/a", Inside: "/data-2"}, {Host: "/a", Inside: "/data/x"}},
		Writable: []spec.Mount{{Host: "/a", Inside: "/data/x/y/z/"}},
	}
	plan, err := NewPlan(policy, "x", "true", []spec.Mount{{Host: "/var/lib/x", Inside: "/var/lib/x"}}, Inside{})
	if err != nil {
		t.Fatal(err)
	}
	got := paths(plan.entries[len(plan.entries)-6:])
	want := []string{"/data", "/data/x", "/data/x/y", "/data/x/y/z", "/data-2", "/var/lib/x"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestForbiddenPlaces(t *testing.T) {
	for path, allowed := range map[string]bool{
		"/": false, "//": false, "/x/..": false, "/proc": false, "/proc/sys": false, "/dev": false, "/dev/null": false, "": false, "x": false, "../x": false,
		"/dev/shm": true, "/dev/shm/x": true, "/process": true, "/devices": true, "/usr": true, "/tmp": true, "/var/lib/x": true,
	} {
		_, err := NewPlan(spec.Sandbox{Tmpfs: []string{path}}, "x", "true", nil, Inside{})
		if refused := new(StepError); allowed != (err == nil) || err != nil && (!errors.As(err, &refused) || refused.Cure == "") {
			t.Errorf("%q: %v", path, err)
		}
	}
}

func TestRootFolderEntries(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"usr", "var", "proc", "srv"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("usr/bin", filepath.Join(dir, "bin")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	plan, err := NewPlan(spec.Sandbox{Root: dir}, "x", "true", nil, Inside{})
	if err != nil {
		t.Fatal(err)
	}
	want := []rootEntry{{Kind: entryLink, Path: "/bin", Source: "usr/bin"}, {Kind: entryReadOnly, Path: "/srv", Source: dir + "/srv", real: dir + "/srv", folder: true},
		{Kind: entryReadOnly, Path: "/usr", Source: dir + "/usr", real: dir + "/usr", folder: true}}
	if !slices.Equal(plan.entries[:3], want) || plan.entries[3].Path != "/dev" {
		t.Errorf("%+v", plan.entries[:4])
	}
}

func TestServiceID(t *testing.T) {
	seen := map[int]bool{}
	for _, name := range strings.Fields("echo web db cache a b c d e f") {
		id := ServiceID(name, nil)
		if id < firstServiceID || id > lastServiceID || id != ServiceID(name, nil) {
			t.Errorf("%s: %d", name, id)
		}
		seen[id] = true
	}
	if len(seen) < 9 {
		t.Errorf("%d different ids of 10", len(seen))
	}
}

func TestCapabilitiesWhileBuilt(t *testing.T) {
	plan := Plan{keep: 1<<10 | 1<<39}
	if got, want := plan.Capabilities(), uint64(1<<8|1<<10|1<<12|1<<21|1<<24|1<<39); got != want {
		t.Errorf("%#x, not %#x", got, want)
	}
}

// Whatever is asked, what is mounted is absolute, clean, not forbidden, and
// after everything it lies in.
func FuzzResolve(f *testing.F) {
	f.Add("/a", "/a/b", "/usr/../x")
	f.Add("/proc", "/dev/shm", "relative")
	f.Fuzz(func(t *testing.T, first, second, program string) {
		plan, err := NewPlan(spec.Sandbox{Tmpfs: []string{first}, Writable: []spec.Mount{{Host: "/", Inside: second}}}, "x", program, nil, Inside{})
		if err != nil {
			return
		}
		var asked []string
		for i, entry := range plan.entries {
			if filepath.Clean(entry.Path) != entry.Path || !filepath.IsAbs(entry.Path) || entry.Asked && whyForbidden(entry.Path) != "" {
				t.Errorf("%q", entry.Path)
			}
			last := i == len(plan.entries)-1 // may be the program, a file: the kernel refuses it on a folder
			if !last && slices.ContainsFunc(asked, func(path string) bool { return spec.IsBelow(path, entry.Path) }) {
				t.Errorf("%q hides what was mounted before", entry.Path)
			}
			if entry.Asked {
				asked = append(asked, entry.Path)
			}
		}
	})
}

func TestAbilitiesOfThisMachine(t *testing.T) {
	for _, a := range ListAbilities() {
		if a.Name == "" || a.Detail == "" || a.Needs == "" || a.OK == (a.Cure != "") {
			t.Errorf("%+v", a)
		}
		if a.Required && !a.OK {
			t.Errorf("%s: %s: %s", a.Name, a.Detail, a.Cure)
		}
	}
}

func TestErrorsSayStepPathErrnoAndCure(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{NewError("mount", "/x", os.NewSyscallError("move_mount", syscall.ENOENT)), "mount /x: no such file or directory: it does not exist on the host"},
		{NewError("hostname", "", syscall.ENOSYS), "hostname: function not implemented: " + cureKernel},
		{NewError("clone", "", syscall.EUSERS), "clone: too many users: too many user namespaces within each other"},
		{NewError("seccomp", "", syscall.EBUSY), "seccomp: device or resource busy: the activator itself is under a filter with a supervisor, and Linux allows but one: connect = \"none\" needs none"},
		{&StepError{Step: "user", Path: "x", Cure: "none"}, "user x: none"},
	} {
		if test.err.Error() != test.want {
			t.Errorf("%q, not %q", test.err, test.want)
		}
	}
	if err := NewError("open", "/x", &StepError{Step: "inner"}); err.Step != "inner" {
		t.Errorf("%v", err)
	}
	if !errors.Is(NewError("open", "/x", syscall.ENOENT), os.ErrNotExist) {
		t.Error("the errno is lost")
	}
}
