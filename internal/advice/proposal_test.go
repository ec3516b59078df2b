package advice

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"activator/internal/spec"
)

func address(t *testing.T, text string) spec.Address {
	t.Helper()
	a, err := spec.ParseAddress(text)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func serviceOf(t *testing.T, listen ...string) spec.Service {
	s := spec.Service{Handover: spec.FDs}
	for _, text := range listen {
		s.Sockets = append(s.Sockets, spec.Socket{Address: address(t, text)})
	}
	return s
}

// Which of the sockets is for what the program binds, and whether it is asked to be.
func TestProposeBind(t *testing.T) {
	for _, test := range []struct {
		name          string
		listen, bound []string
		run           Run
		targets       []string // nil: handover stays
		remark        string
	}{
		{"the same port", []string{"tcp://:80"}, []string{"tcp://127.0.0.1:80"}, Run{}, []string{"tcp://127.0.0.1:80"}, ""},
		{"another port, and deaf", []string{"tcp://:8080"}, []string{"tcp://:80"}, Run{Deaf: true}, []string{"tcp://:80"}, ""},
		{"another port, and failed", []string{"tcp://:8080"}, []string{"tcp://:80"}, Run{Failed: true}, []string{"tcp://:80"}, ""},
		{"both families for datagrams of one", []string{"udp://127.0.0.1:80"}, []string{"udp://:80"}, Run{}, []string{"udp6://:80"}, ""},
		{"both families for datagrams of both", []string{"udp://:80"}, []string{"udp://:80"}, Run{}, []string{"udp://:80"}, ""},
		{"both families for connections of one", []string{"tcp://127.0.0.1:80"}, []string{"tcp://:80"}, Run{}, []string{"tcp://:80"}, ""},
		{"another port beside", []string{"tcp://:8080"}, []string{"tcp://:9"}, Run{}, nil, "it binds tcp://:9 itself"},
		{"the second is the one", []string{"tcp://:8080"}, []string{"tcp://:9", "tcp://:8080"}, Run{}, []string{"tcp://:8080"}, ""},
		{"two of two", []string{"tcp://:8080", "tcp://:8081"}, []string{"tcp://:81", "tcp://:8080"}, Run{}, []string{"tcp://:8080", "tcp://:81"}, ""},
		{"another kind", []string{"tcp://:80"}, []string{"udp://:80"}, Run{Failed: true}, nil, "it binds udp://:80 itself"},
		{"a path", []string{"unix:///run/x", "tcp://:80"}, []string{"unix:///var/run/x"}, Run{}, []string{"unix:///var/run/x", "://"}, "it has bound nothing for tcp://:80"},
		{"nothing", []string{"tcp://:80"}, nil, Run{Failed: true}, nil, ""},
		{"before it fails for a file", []string{"tcp://:8080"}, []string{"tcp://:9", "FILE"}, Run{Failed: true, Deaf: true}, nil, "it binds tcp://:9 itself"},
		{"the same port, before it fails for a file", []string{"tcp://:80"}, []string{"tcp://127.0.0.1:80", "FILE"}, Run{Failed: true}, []string{"tcp://127.0.0.1:80"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var found []spec.Finding
			for _, b := range test.bound {
				f := spec.Finding{Path: t.TempDir(), Want: spec.Read, Errno: syscall.ENOENT}
				if b != "FILE" {
					f = spec.Finding{Text: "binds", Bound: address(t, b)}
				}
				found = append(found, f, f)
			}
			conf := serviceOf(t, test.listen...)
			p := Propose(conf, found, test.run)
			var targets []string
			if p.Service.Handover == spec.Bind {
				for _, s := range p.Service.Sockets {
					targets = append(targets, s.Target.String())
				}
			}
			if !slices.Equal(targets, test.targets) || (len(p.Why["service.handover"]) > 0) != (targets != nil) {
				t.Errorf("%q, not %q, since %q", targets, test.targets, p.Why)
			}
			if text := strings.Join(p.Remarks, "\n"); (text == "") != (test.remark == "") || !strings.Contains(text, test.remark) {
				t.Errorf("%q, not %q", text, test.remark)
			}
			if conf.Sockets[0].Target != (spec.Address{}) {
				t.Error("what was given has changed")
			}
		})
	}
}

// proposedTarget is what a program has bound, and what becomes of the targets.
type proposedTarget struct {
	name          string
	way           spec.Handover
	listen, bound []string // each "ADDRESS TARGET"; of bound without one: it is no target
	run           Run
	targets       []string
	remark        string
}

func proposedTargets() []proposedTarget {
	return []proposedTarget{
		{"another one", spec.Bind, []string{"tcp://:8080 tcp://:80"}, []string{"tcp://:9", "tcp://:9"}, Run{}, []string{"tcp://:9"}, ""},
		{"beside", spec.Bind, []string{"tcp://:8080 tcp://:80"}, []string{"tcp://:9", "tcp://127.0.0.1:80 tcp://:80"}, Run{}, []string{"tcp://:80"}, ""},
		{"of another kind", spec.Bind, []string{"tcp://:8080 tcp://:80"}, []string{"udp://:80"}, Run{}, []string{"tcp://:80"}, ""},
		{"nothing", spec.Bind, []string{"tcp://:8080 tcp://:80"}, nil, Run{Failed: true}, []string{"tcp://:80"}, ""},
		{"one of two", spec.Bind, []string{"tcp://:8080 tcp://:80", "tcp://:8081 tcp://:81"}, []string{"tcp://:80 tcp://:80", "tcp://:9"}, Run{}, []string{"tcp://:80", "tcp://:9"}, ""},
		{"the same port first", spec.Bind, []string{"tcp://:8080 tcp://:80"}, []string{"tcp://:9", "tcp://:8080"}, Run{}, []string{"tcp://:8080"}, ""},
		{"a better one", spec.Bind, []string{"tcp://:8080 tcp://:9"}, []string{"tcp://:9 tcp://:9", "tcp4://:8080"}, Run{}, []string{"tcp4://:8080"}, ""},
		{"a path", spec.Bind, []string{"unix:///s unix:///run/a"}, []string{"unix:///run/b"}, Run{}, []string{"unix:///run/b"}, ""},
		{"failed", spec.Bind, []string{"tcp://:8080 tcp://:80"}, []string{"tcp://:9"}, Run{Failed: true}, []string{"tcp://:9"}, ""},
		{"failed for a file", spec.Bind, []string{"tcp://:8080 tcp://:80"}, []string{"tcp://:9", "FILE"}, Run{Failed: true}, []string{"tcp://:80"}, "it has bound tcp://:9, and not tcp://:80 yet"},
		{"carried to another one", spec.Proxy, []string{"tcp://:8080 tcp://:80"}, []string{"tcp://:9"}, Run{}, []string{"tcp://:9"}, ""},
		{"carried", spec.Proxy, []string{"tcp://:8080 tcp://127.0.0.1:80"}, []string{"tcp://:9", "tcp4://:80"}, Run{}, []string{"tcp://127.0.0.1:80"}, ""},
		{"given", spec.FDs, []string{"tcp://:8080"}, []string{"tcp://:9"}, Run{}, []string{"://"}, "it binds tcp://:9 itself"},
	}
}

// A target that the program has not bound is replaced by what it has bound instead.
func TestProposeTargets(t *testing.T) {
	for _, test := range proposedTargets() {
		t.Run(test.name, func(t *testing.T) {
			conf := serviceOf(t)
			conf.Handover = test.way
			for _, text := range test.listen {
				conf.Sockets = append(conf.Sockets, spec.Socket{Address: firstOf(t, text), Target: secondOf(t, text)})
			}
			old := slices.Clone(conf.Sockets)
			var found []spec.Finding
			for _, text := range test.bound {
				f := spec.Finding{Path: t.TempDir(), Want: spec.Read, Errno: syscall.ENOENT}
				if text != "FILE" {
					f = spec.Finding{Bound: firstOf(t, text), For: secondOf(t, text)}
				}
				found = append(found, f)
			}
			p := Propose(conf, found, test.run)
			var got []string
			for i, s := range p.Service.Sockets {
				got = append(got, s.Target.String())
				if (s.Target != old[i].Target) != (len(p.Why["socket.target "+s.Address.String()]) == 1) {
					t.Errorf("%s for %s, since %q", s.Target, s.Address, p.Why)
				}
			}
			if !slices.Equal(got, test.targets) || !reflect.DeepEqual(conf.Sockets, old) {
				t.Errorf("%q, not %q", got, test.targets)
			}
			if text := strings.Join(p.Remarks, "\n"); (text == "") != (test.remark == "") || !strings.Contains(text, test.remark) {
				t.Errorf("%q, not %q", text, test.remark)
			}
		})
	}
}

func firstOf(t *testing.T, text string) spec.Address {
	first, _, _ := strings.Cut(text, " ")
	return address(t, first)
}

func secondOf(t *testing.T, text string) spec.Address {
	if _, second, both := strings.Cut(text, " "); both {
		return address(t, second)
	}
	return spec.Address{}
}

// proposedPath is what a program did not get at, and what is to be written for it.
type proposedPath struct {
	name   string
	found  []spec.Finding // DIR is a folder of the host's
	failed bool
	want   string // each that is added: KEY VALUE; then remarks by their beginning
}

func proposedPaths() []proposedPath {
	is := func(root, user string) string {
		if os.Geteuid() == 0 {
			return root
		}
		return user
	}
	missing := func(want spec.Access, paths ...string) (all []spec.Finding) {
		for _, at := range paths {
			all = append(all, spec.Finding{Path: at, Want: want, Errno: syscall.ENOENT})
		}
		return all
	}
	with := func(f spec.Finding, errno syscall.Errno) []spec.Finding {
		f.Errno = errno
		return []spec.Finding{f}
	}
	const make = spec.Write | spec.Make
	return []proposedPath{
		{"a file", missing(spec.Read, "DIR/a/1", "DIR/a/1"), true, "read_only DIR/a/1"},
		{"three files", missing(spec.Read, "DIR/a/1", "DIR/a/2", "DIR/a/3"), true, "read_only DIR/a/1 DIR/a/2 DIR/a/3"},
		{"four files", missing(spec.Read, "DIR/a/1", "DIR/a/2", "DIR/a/3", "DIR/a/4"), true, "read_only DIR/a"},
		{"a folder that is listed", missing(spec.Read, "DIR/b", "DIR/b/c/1"), true, "read_only DIR/b"},
		{"a folder on the way", missing(0, "DIR", "DIR/b", "DIR/b/c/1"), true, "read_only DIR/b/c/1"},
		{"a folder that is looked at", missing(0, "DIR/b"), true, "read_only DIR/b"},
		{"with a colon", missing(spec.Read, "/data/a:b"), true, "it looks for /data/a:b: a path with a colon"},
		{"a name that is none", missing(make, "/var/lib/a b/c"), true, "it wants to write /var/lib/a b/c"},
		{"nowhere", missing(spec.Read, "DIR/none", "/data/none"), true, ""},
		{"what all look for", missing(spec.Read, "/run/nscd/socket", "/sys/fs/cgroup", "/root/.config/x", "/home", "/", "/var/lib"), true, ""},
		{"/sys alone", missing(0, "/sys"), true, "read_only /sys"},
		{"/sys and another", missing(spec.Read, "/sys/class/net", "DIR/a/1"), true, "read_only DIR/a/1; it looks for /sys/class/net"},
		{"/sys and no failure", missing(spec.Read, "/sys/class/net"), false, "it looks for /sys/class/net"},
		{"makes a file", missing(make, "DIR/a/new"), true, "writable DIR/a"},
		{"makes a file nowhere", missing(make, "/data/none/new"), true, "it wants to write /data/none/new"},
		{"reads, then writes", slices.Concat(missing(spec.Read, "DIR/b/d"), missing(make, "DIR/b/new")), true, "writable DIR/b"},
		{"its own", missing(make, "/var/lib/some-shop/db", "/var/lib/some-shop/db2"), true, is("state_directory some-shop", "tmpfs /var/lib/some-shop")},
		{"of /var/run", missing(spec.Make, "/var/run/some-shop/pid"), true, is("runtime_directory some-shop", "tmpfs /run/some-shop")},
		{"made", with(spec.Finding{Path: "/var/lib/some-shop", Want: spec.Make}, 0), true, "it keeps things in /var/lib/some-shop"},
		{"made for a while", with(spec.Finding{Path: "/run/some-shop", Want: spec.Make}, 0), true, ""},
		{"no right", with(spec.Finding{Path: "/etc/ssl/private/key", Want: spec.Read}, syscall.EACCES), true, "its user has no right to /etc/ssl/private/key"},
		{"a cache of Python's", with(spec.Finding{Path: "/usr/lib/python3/x/__pycache__", Want: spec.Make}, syscall.EROFS), true, ""},
		{"beside its own file", missing(spec.Read, "DIR/b/e"), true, "read_only DIR/b"},
		{"a folder beside its own file", missing(spec.Read, "DIR/b/c"), true, "read_only DIR/b/c"},
		{"where it stands", with(spec.Finding{Path: "/dump", Want: make}, syscall.EROFS), true, is("working_directory /var/lib/shop; state_directory shop", "working_directory /tmp")},
		{"may it write where it stands", with(spec.Finding{Path: "/", Want: spec.Write}, syscall.EROFS), true, is("working_directory /var/lib/shop; state_directory shop", "working_directory /tmp")},
		{"asks, and goes on", with(spec.Finding{Path: "/", Want: spec.Write}, syscall.EROFS), false, ""},
		{"a file with a dot", with(spec.Finding{Path: "/.x", Want: make}, syscall.EROFS), true, ""},
		{"goes to what is nowhere", missing(0, "/var/lib/some-shop"), true, is("state_directory some-shop", "tmpfs /var/lib/some-shop")},
		{"looks at what is nowhere", missing(0, "/var/lib/some-shop"), false, ""},
		{"what is nowhere, and another", missing(0, "/var/lib/some-shop", "DIR/a/1"), true, "read_only DIR/a/1"},
		{"read-only", with(spec.Finding{Path: "DIR/a/new", Want: make}, syscall.EROFS), true, "writable DIR/a"},
	}
}

func TestProposePaths(t *testing.T) {
	dir := t.TempDir()
	for _, file := range []string{"a/1", "a/2", "a/3", "a/4", "b/c/1", "b/d", "b/e"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range proposedPaths() {
		t.Run(test.name, func(t *testing.T) {
			for i, f := range test.found {
				test.found[i].Path = strings.Replace(f.Path, "DIR", dir, 1)
			}
			conf := spec.Service{Process: spec.Process{Name: "shop", Dir: "/", Argv: []string{"shop", dir + "/b/d"}}}
			p := Propose(conf, test.found, Run{Failed: test.failed})
			added := listAdded(&p.Service)
			if len(added) != len(p.Why) {
				t.Errorf("%q, reasons %q", added, p.Why)
			}
			got, want := strings.ReplaceAll(strings.Join(append(added, p.Remarks...), "; "), dir, "DIR"), test.want
			if !strings.HasPrefix(got, want) || want == "" && got != "" || len(p.Remarks) == 0 && got != want {
				t.Errorf("%q, not %q", got, want)
			}
		})
	}
}

// What is another user's in a directory that the program has already is told of.
func TestProposeNothingForNoRight(t *testing.T) {
	conf := spec.Service{Process: spec.Process{Name: "shop", Dir: "/", Argv: []string{"shop"}, Directories: []spec.Directory{{Kind: "state", Name: "shop"}}}}
	p := Propose(conf, []spec.Finding{{Path: "/var/lib/shop/log", Want: spec.Write, Errno: syscall.EACCES}}, Run{Failed: true})
	if os.Geteuid() == 0 && (len(p.Remarks) != 1 || !strings.HasPrefix(p.Remarks[0], "its user has no right to /var/lib/shop/log") || len(p.Why) > 0) {
		t.Errorf("%q, %q", p.Remarks, p.Why)
	}
}

// What the configuration shows a program to read, and it writes, is shown to write.
func TestProposeWritable(t *testing.T) {
	dir := t.TempDir()
	for _, folder := range []string{"w/deep", "v"} {
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(dir+"/v/file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ host, inside, path, readOnly, writable string }{
		{"/w", "/w", "/w/new", "", "/w:/w"},
		{"/w", "/data", "/data/new", "", "/w:/data"},
		{"/w", "/data", "/data", "", "/w:/data"},
		{"/w", "/w", "/w/deep/new", "/w:/w", "/w/deep:/w/deep"},
		{"/v/file", "/etc/file", "/etc/file", "", "/v/file:/etc/file"},
	} {
		conf := spec.Service{Process: spec.Process{Name: "shop", Dir: "/", Argv: []string{"shop"}}}
		conf.Sandbox.ReadOnly = []spec.Mount{{Host: dir + tt.host, Inside: tt.inside}}
		p := Propose(conf, []spec.Finding{{Path: tt.path, Want: spec.Write | spec.Make, Errno: syscall.EROFS}}, Run{Failed: true})
		list := func(all []spec.Mount) (text string) {
			for _, m := range all {
				text += strings.TrimPrefix(m.Host, dir) + ":" + m.Inside
			}
			return text
		}
		if r, w := list(p.Service.Sandbox.ReadOnly), list(p.Service.Sandbox.Writable); r != tt.readOnly || w != tt.writable || len(p.Remarks) > 0 {
			t.Errorf("%s: read_only %q, writable %q, %q", tt.path, r, w, p.Remarks)
		}
	}
}

// listAdded lists what a service has of directories and mounts, each as KEY VALUE...
func listAdded(s *spec.Service) (added []string) {
	add := func(key string, values []string) {
		if len(values) > 0 {
			added = append(added, key+" "+strings.Join(values, " "))
		}
	}
	if s.User != "" {
		add("user", []string{s.User})
	}
	if s.Dir != "" && s.Dir != "/" {
		add("working_directory", []string{s.Dir})
	}
	for _, d := range s.Directories {
		add(d.Kind+"_directory", []string{d.Name})
	}
	insides := func(mounts []spec.Mount) (paths []string) {
		for _, m := range mounts {
			paths = append(paths, m.Inside)
		}
		return paths
	}
	add("read_only", insides(s.Sandbox.ReadOnly))
	add("writable", insides(s.Sandbox.Writable))
	add("tmpfs", s.Sandbox.Tmpfs)
	return added
}

// What a program was refused is opened where it has failed, and else told.
func TestProposeLines(t *testing.T) {
	found := []spec.Finding{{Text: "was refused a: write", Line: `connect = "unix"`}, {Text: "was refused b: write", Line: `connect = "any"`}, {Text: "was refused c: write", Line: `connect = "unix"`},
		{Text: "was refused d", Line: `syscalls = "any"`}, {Text: "was refused e", Line: `capabilities = ["CAP_NET_RAW"]`}, {Text: "was refused f", Line: `seal = "off"`}, {Text: "says g"}}
	p := Propose(spec.Service{Seal: "required"}, found, Run{Failed: true})
	want := spec.Sandbox{Connect: "any", Syscalls: "any", Capabilities: []string{"CAP_NET_RAW"}}
	if !reflect.DeepEqual(p.Service.Sandbox, want) || p.Service.Seal != "required" || !slices.Equal(p.Remarks, []string{"it says g", "it was refused f"}) {
		t.Errorf("%+v, %q", p.Service.Sandbox, p.Remarks)
	}
	if p.Service.Handover != "" {
		t.Errorf("handover %q of what is none", p.Service.Handover)
	}
	carried := Propose(serviceOf(t, "tcp://:80", "udp://:80", "unix:///run/x"), found[5:6], Run{Failed: true})
	if carried.Service.Handover != spec.Proxy || len(carried.Why["service.handover"]) != 1 || len(carried.Remarks) != 0 {
		t.Errorf("%q, %q, %q", carried.Service.Handover, carried.Why, carried.Remarks)
	}
	if p := Propose(serviceOf(t, "tcp://:80"), found[4:6], Run{Failed: true}); p.Service.Handover != spec.FDs || len(p.Remarks) != 1 {
		t.Errorf("with another line: %q, %q", p.Service.Handover, p.Remarks)
	}
	missing := spec.Finding{Path: t.TempDir(), Errno: syscall.ENOENT}
	if p := Propose(serviceOf(t, "tcp://:80"), append([]spec.Finding{missing}, found...), Run{Failed: true}); p.Service.Sandbox.Connect != "" || p.Service.Handover != spec.FDs || len(p.Why) != 1 || len(p.Remarks) != len(found) {
		t.Errorf("with a file that is missing: %+v, %q", p.Why, p.Remarks)
	}
	if p := Propose(serviceOf(t, "unixgram:///run/x"), found[5:6], Run{Failed: true}); p.Service.Handover != spec.FDs || len(p.Remarks) != 1 {
		t.Errorf("%q, %q", p.Service.Handover, p.Remarks)
	}
	if why := p.Why["sandbox.connect"]; !slices.Equal(why, []string{"it was refused a", "it was refused b", "it was refused c"}) {
		t.Errorf("%q", why)
	}
	p = Propose(spec.Service{}, found, Run{})
	if !reflect.DeepEqual(p.Service.Sandbox, spec.Sandbox{}) || len(p.Remarks) != len(found) || len(p.Why) != 0 {
		t.Errorf("%+v, %q", p.Service.Sandbox, p.Remarks)
	}
}

// The user that a program wants to be it can have as root.
func TestProposeUser(t *testing.T) {
	p := Propose(spec.Service{}, []spec.Finding{{ID: "group 424242"}, {ID: "user 4242"}, {ID: "user 0"}}, Run{Failed: true})
	root := os.Geteuid() == 0
	if root && p.Service.User != "4242" || !root && p.Service.User != "" || !slices.ContainsFunc(p.Remarks, func(text string) bool { return strings.HasPrefix(text, "it wants to be user root") }) {
		t.Errorf("user %q, %q", p.Service.User, p.Remarks)
	}
}

// A program that fails gets the user of what it wants, as root; that one is the group's too. A program of the host's keeps
// the folders that it has things in.
func TestProposeOwner(t *testing.T) {
	const log = "/var/log/activator-advice"
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want := []string{"", "tmpfs " + log, ""}
	if os.Geteuid() == 0 {
		t.Cleanup(func() { os.RemoveAll(log) })
		if err := errors.Join(os.Chown(file, 1, 1), os.Mkdir(log, 0o755), os.WriteFile(log+"/old", nil, 0o600), os.Chown(log+"/old", 1, 1)); err != nil {
			t.Fatal(err)
		}
		want = []string{"user daemon", "tmpfs " + log, "user daemon"}
	}
	want = append(want, map[bool]string{true: "state_directory activator-advice; tmpfs " + log, false: "tmpfs /var/lib/activator-advice"}[os.Geteuid() == 0])
	for i, f := range []spec.Finding{{Path: file, Errno: syscall.EACCES}, {Path: log + "/new", Want: spec.Make, Errno: syscall.ENOENT}, {ID: "group 1"}, {Path: "/var/lib/activator-advice/x", Want: spec.Make, Errno: syscall.ENOENT}} {
		for _, failed := range []bool{true, false} {
			p := Propose(spec.Service{}, []spec.Finding{f}, Run{Failed: failed})
			expect := want[i]
			if !failed && f.Want == 0 {
				expect = "" // it went on without
			} else if !failed {
				expect, _, _ = strings.Cut(expect, "; ")
			}
			if got := strings.Join(listAdded(&p.Service), "; "); got != expect {
				t.Errorf("%+v, failed %t: %q, not %q", f, failed, got, expect)
			}
		}
	}
	p := Propose(spec.Service{Process: spec.Process{User: "bin"}}, []spec.Finding{{ID: "group 1"}}, Run{Failed: true})
	if p.Service.User != "bin" {
		t.Errorf("user %q in place of the one that is written", p.Service.User)
	}
}

// Who is killed at its end, since as pid 1 it has no default action, gets a reaper.
func TestProposeInit(t *testing.T) {
	p := Propose(spec.Service{}, []spec.Finding{{Line: spec.InitLine}}, Run{})
	if !p.Service.Sandbox.Init || len(p.Why["sandbox.init"]) != 1 || len(p.Remarks) > 0 {
		t.Errorf("init %t, %q, %q", p.Service.Sandbox.Init, p.Why, p.Remarks)
	}
}

// The files that its arguments name are meant to be seen.
func TestMountArguments(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/conf", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	p := MountArguments(spec.Service{Process: spec.Process{Argv: []string{dir + "/conf", "-c", dir + "/conf", "--same=" + dir + "/conf", dir, "/etc/passwd", "none", dir + "/none"}}})
	if want := []spec.Mount{{Host: dir + "/conf", Inside: dir + "/conf"}}; !reflect.DeepEqual(p.Service.Sandbox.ReadOnly, want) {
		t.Errorf("%+v", p.Service.Sandbox.ReadOnly)
	}
}
