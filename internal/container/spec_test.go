package container

import (
	"os"
	"slices"
	"strings"
	"testing"

	"activator/internal/sandbox"
	"activator/internal/spec"
)

// commandLine returns the engine's, and what it is put behind.
func commandLine(s spec.Service) ([]string, sandbox.Engine, error) {
	e := &Engine{of: service{s}}
	argv, behind, err := e.Command("", e.of.FDNames)
	if behind.Folder != "" {
		_ = os.Remove(behind.Folder)
	}
	return argv, behind, err
}

// web is the least there can be.
func web() spec.Service {
	return spec.Service{File: "/etc/web.toml", Process: spec.Process{Name: "web"}, Container: &spec.Container{Engine: "podman", Image: "localhost/web"}}
}

func TestArgv(t *testing.T) {
	always := []string{
		"podman", "run", "--rm", "--name=web", "--hostname=web", "--label=activator.config=/etc/web.toml", "--network=none",
		"--pull=never", "--sdnotify=ignore",
		"--cap-drop=all", "--read-only", "--security-opt=no-new-privileges", "--umask=0000", "localhost/web",
	}
	for _, tc := range []struct {
		name      string
		change    func(*spec.Service)
		with      []string // in the command line too
		without   []string // not in it
		inherited []string
	}{
		{"least", func(*spec.Service) {}, nil, nil, []string{"nofile", "nproc"}},
		{"host network", func(s *spec.Service) { s.Sandbox.Network = "host" }, []string{"--network=host"}, []string{"--network=none"}, nil},
		{"named network", func(s *spec.Service) { s.Sandbox.Network = "netns:blue" }, []string{"--network=ns:FOLDER/0"}, []string{"--network=none"}, nil},
		{"network by path", func(s *spec.Service) { s.Sandbox.Network = "/proc/1/ns/net" }, []string{"--network=ns:/proc/1/ns/net"}, []string{"--network=none"}, nil},
		{"privileges", func(s *spec.Service) { s.Sandbox.NewPrivs = true }, nil, []string{"--security-opt=no-new-privileges"}, nil},
		{"init", func(s *spec.Service) { s.Sandbox.Init = true }, []string{"--init"}, nil, nil},
		{"user", func(s *spec.Service) { s.User = "www"; s.Umask = 0o27 }, []string{"--user=www", "--umask=0027"}, []string{"--umask=0000"}, nil},
		{"user and group", func(s *spec.Service) { s.User, s.Group = "1", "2" }, []string{"--user=1:2"}, nil, nil},
		{"folder", func(s *spec.Service) { s.Dir = "/srv" }, []string{"--workdir=/srv"}, nil, nil},
		{"limits", func(s *spec.Service) {
			s.Limits = []spec.Limit{{Resource: "nofile", Soft: 5, Hard: 9}, {Resource: "core", Soft: 0, Hard: spec.Unlimited}}
		},
			[]string{"--ulimit=nofile=5:9", "--ulimit=core=0:-1"}, nil, []string{"nproc"}},
		{"mounts", func(s *spec.Service) {
			s.Sandbox.ReadOnly, s.Sandbox.Writable, s.Sandbox.Tmpfs = []spec.Mount{{Host: "/a", Inside: "/b"}}, []spec.Mount{{Host: "/c", Inside: "/d"}}, []string{"/e"}
		}, []string{"--volume=FOLDER/0:/b:ro", "--volume=FOLDER/1:/d:rw", "--tmpfs=/e"}, nil, nil},
		{"capabilities", func(s *spec.Service) { s.Sandbox.Capabilities = []string{"CAP_CHOWN"} }, []string{"--cap-add=CAP_CHOWN"}, nil, nil},
		{"names", func(s *spec.Service) { s.FDNames = []string{"a", "b"} }, []string{"--env=LISTEN_FDNAMES=a:b"}, nil, nil},
		{"environment", func(s *spec.Service) { s.Env = []string{"A=b c"} }, []string{"--env=A=b c"}, nil, nil},
		{"options", func(s *spec.Service) { s.Container.Options = []string{"--tz", "UTC", "--env=X=y"} }, []string{"--tz", "UTC", "--env=X=y"}, nil, nil},
		{"volume by name", func(s *spec.Service) { s.Container.Options = []string{"-v", "data:/data"} }, []string{"-v", "data:/data"}, nil, nil},
		{"own log", func(s *spec.Service) { s.Container.Options = []string{"--log-driver=none"} }, []string{"--log-driver=none"}, nil, nil},
		{"folder as volume", func(s *spec.Service) { s.Container.Options = []string{"-v", "/a:/b", "--volume=./c:/d"} }, []string{"-v", "/a:/b", "--volume=./c:/d"}, nil, nil},
		{"command", func(s *spec.Service) { s.Container.Command = []string{"sh", "-c", "exit"} }, []string{"sh", "-c", "exit"}, nil, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := web()
			tc.change(&s)
			got, behind, err := commandLine(s)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range append(always, tc.with...) {
				want = strings.ReplaceAll(want, "FOLDER", behind.Folder)
				if !slices.Contains(got, want) && !slices.Contains(tc.without, want) {
					t.Errorf("%q is missing in %q", want, got)
				}
			}
			for _, no := range tc.without {
				if slices.Contains(got, no) {
					t.Errorf("%q is in %q", no, got)
				}
			}
			if tc.inherited != nil && !slices.Equal((service{s}).unsetLimits(), tc.inherited) {
				t.Errorf("inherited %q, want %q", (service{s}).unsetLimits(), tc.inherited)
			}
			if want := append([]string{s.Container.Image}, s.Container.Command...); !slices.Equal(got[len(got)-len(want):], want) {
				t.Errorf("%q does not end with %q", got, want)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for _, tc := range []struct {
		change func(*spec.Service)
		want   string
	}{
		{func(s *spec.Service) { s.Container.Engine = "docker" }, `container.engine: "docker": only "podman" is known`},
		{func(s *spec.Service) { s.Container.Image = "" }, "container.image: is empty"},
		{func(s *spec.Service) { s.Container.Image = "--privileged" }, "does not begin with a dash"},
		{func(s *spec.Service) { s.Group = "www" }, "a group needs a user"},
		{func(s *spec.Service) { s.Limits = []spec.Limit{{Resource: "inotify_instances", Soft: 9, Hard: 9}} }, "what it may have is its user's"},
		{func(s *spec.Service) { s.Limits = []spec.Limit{{Resource: "as", Soft: 1 << 30, Hard: 1 << 30}} }, "as: the engine knows no such limit"},
		{func(s *spec.Service) { s.Container.Options = []string{"--network=host"} }, "[sandbox] network"},
		{func(s *spec.Service) { s.Container.Options = []string{"--net", "host"} }, "[sandbox] network"},
		{func(s *spec.Service) { s.Container.Options = []string{"--pod=x"} }, "a pod has a network of its own"},
		{func(s *spec.Service) { s.Container.Options = []string{"-d"} }, "waits for the container"},
		{func(s *spec.Service) { s.Container.Options = []string{"-itd"} }, "waits for the container"},
		{func(s *spec.Service) { s.Container.Options = []string{"--detach"} }, "waits for the container"},
		{func(s *spec.Service) { s.Container.Options = []string{"-it"} }, "no terminal"},
		{func(s *spec.Service) { s.Container.Options = []string{"--name=x"} }, "the activator sets it"},
		{func(s *spec.Service) { s.Container.Options = []string{"--replace"} }, "the activator sets it"},
		{func(s *spec.Service) { s.Container.Options = []string{"--rm=false"} }, "the activator sets it"},
		{func(s *spec.Service) { s.Container.Options = []string{"--label=activator.config=/x"} }, "the activator sets it"},
		{func(s *spec.Service) { s.Container.Options = []string{"--label", "activator.config=/x"} }, "the activator sets it"},
		{func(s *spec.Service) { s.Name = "web@1" }, "cannot be the name of a container"},
		{func(s *spec.Service) { s.Container.Options = []string{"--tz=UTC", "alpine"} }, "not an option"},
		{func(s *spec.Service) { s.Container.Options = []string{"--"} }, "not an option"},
	} {
		s := web()
		tc.change(&s)
		_, _, err := commandLine(s)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: got %v, want %q", s, err, tc.want)
		}
	}
}

func TestParseRanges(t *testing.T) {
	const file = "root:1:1\ntester:100000:65536\n\n1001:300000:10\n# comment\nother:9:9\n"
	ranges, err := parseRanges(strings.NewReader(file), "tester", "1001")
	if err != nil || !slices.Equal(ranges, []idRange{{100000, 65536}, {300000, 10}}) {
		t.Errorf("got %v, %v", ranges, err)
	}
	for _, bad := range []string{"tester:x:1", "tester:1:", "tester:0:5", "tester:5:-1", "tester:5:0"} {
		if _, err := parseRanges(strings.NewReader(bad), "tester", "1001"); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func FuzzParseRanges(f *testing.F) {
	f.Add("tester:100000:65536\n1001:1:1\n")
	f.Fuzz(func(t *testing.T, text string) {
		ranges, err := parseRanges(strings.NewReader(text), "tester", "1001")
		for _, r := range ranges {
			if err == nil && (r.first <= 0 || r.count <= 0) {
				t.Errorf("%q: %v", text, r)
			}
		}
	})
}
