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
func commandLine(s Spec) ([]string, sandbox.Engine, error) {
	e := &Engine{spec: s}
	argv, walls, err := e.Command("")
	if walls.Folder != "" {
		_ = os.Remove(walls.Folder)
	}
	return argv, walls, err
}

func TestArgv(t *testing.T) {
	least := Spec{Name: "web", File: "/etc/web.toml", Engine: "podman", Image: "localhost/web"}
	always := []string{
		"podman", "run", "--rm", "--name=web", "--hostname=web", "--label=activator.config=/etc/web.toml", "--network=none",
		"--pull=never", "--sdnotify=ignore",
		"--cap-drop=all", "--read-only", "--security-opt=no-new-privileges", "--umask=0000", "localhost/web",
	}
	for _, tc := range []struct {
		name      string
		change    func(*Spec)
		with      []string // in the command line too
		without   []string // not in it
		inherited []string
	}{
		{"least", func(*Spec) {}, nil, nil, []string{"nofile", "nproc"}},
		{"host network", func(s *Spec) { s.Network = "host" }, []string{"--network=host"}, []string{"--network=none"}, nil},
		{"named network", func(s *Spec) { s.Network = "netns:blue" }, []string{"--network=ns:FOLDER/0"}, []string{"--network=none"}, nil},
		{"network by path", func(s *Spec) { s.Network = "/proc/1/ns/net" }, []string{"--network=ns:/proc/1/ns/net"}, []string{"--network=none"}, nil},
		{"privileges", func(s *Spec) { s.NewPrivs = true }, nil, []string{"--security-opt=no-new-privileges"}, nil},
		{"init", func(s *Spec) { s.Init = true }, []string{"--init"}, nil, nil},
		{"user", func(s *Spec) { s.User = "www"; s.Umask = 0o27 }, []string{"--user=www", "--umask=0027"}, []string{"--umask=0000"}, nil},
		{"user and group", func(s *Spec) { s.User, s.Group = "1", "2" }, []string{"--user=1:2"}, nil, nil},
		{"folder", func(s *Spec) { s.Dir = "/srv" }, []string{"--workdir=/srv"}, nil, nil},
		{"limits", func(s *Spec) {
			s.Limits = []spec.Limit{{Resource: "nofile", Soft: 5, Hard: 9}, {Resource: "core", Soft: 0, Hard: spec.Unlimited}}
		},
			[]string{"--ulimit=nofile=5:9", "--ulimit=core=0:-1"}, nil, []string{"nproc"}},
		{"mounts", func(s *Spec) {
			s.ReadOnly, s.Writable, s.Tmpfs = []spec.Mount{{Host: "/a", Inside: "/b"}}, []spec.Mount{{Host: "/c", Inside: "/d"}}, []string{"/e"}
		}, []string{"--volume=FOLDER/0:/b:ro", "--volume=FOLDER/1:/d:rw", "--tmpfs=/e"}, nil, nil},
		{"capabilities", func(s *Spec) { s.Capabilities = []string{"CAP_CHOWN"} }, []string{"--cap-add=CAP_CHOWN"}, nil, nil},
		{"names", func(s *Spec) { s.FDNames = []string{"a", "b"} }, []string{"--env=LISTEN_FDNAMES=a:b"}, nil, nil},
		{"environment", func(s *Spec) { s.Env = []string{"A=b c"} }, []string{"--env=A=b c"}, nil, nil},
		{"options", func(s *Spec) { s.Options = []string{"--tz", "UTC", "--env=X=y"} }, []string{"--tz", "UTC", "--env=X=y"}, nil, nil},
		{"volume by name", func(s *Spec) { s.Options = []string{"-v", "data:/data"} }, []string{"-v", "data:/data"}, nil, nil},
		{"own log", func(s *Spec) { s.Options = []string{"--log-driver=none"} }, []string{"--log-driver=none"}, nil, nil},
		{"folder as volume", func(s *Spec) { s.Options = []string{"-v", "/a:/b", "--volume=./c:/d"} }, []string{"-v", "/a:/b", "--volume=./c:/d"}, nil, nil},
		{"command", func(s *Spec) { s.Command = []string{"sh", "-c", "exit"} }, []string{"sh", "-c", "exit"}, nil, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := least
			tc.change(&s)
			got, walls, err := commandLine(s)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range append(always, tc.with...) {
				want = strings.ReplaceAll(want, "FOLDER", walls.Folder)
				if !slices.Contains(got, want) && !slices.Contains(tc.without, want) {
					t.Errorf("%q is missing in %q", want, got)
				}
			}
			for _, no := range tc.without {
				if slices.Contains(got, no) {
					t.Errorf("%q is in %q", no, got)
				}
			}
			if tc.inherited != nil && !slices.Equal(s.inherited(), tc.inherited) {
				t.Errorf("inherited %q, want %q", s.inherited(), tc.inherited)
			}
			if want := append([]string{s.Image}, s.Command...); !slices.Equal(got[len(got)-len(want):], want) {
				t.Errorf("%q does not end with %q", got, want)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for _, tc := range []struct {
		change func(*Spec)
		want   string
	}{
		{func(s *Spec) { s.Engine = "docker" }, `engine "docker": only "podman" is known`},
		{func(s *Spec) { s.Image = "" }, "no image given"},
		{func(s *Spec) { s.Image = "--privileged" }, "does not begin with a dash"},
		{func(s *Spec) { s.Group = "www" }, "a group needs a user"},
		{func(s *Spec) { s.Options = []string{"--network=host"} }, "[sandbox] network"},
		{func(s *Spec) { s.Options = []string{"--net", "host"} }, "[sandbox] network"},
		{func(s *Spec) { s.Options = []string{"--pod=x"} }, "a pod has a network of its own"},
		{func(s *Spec) { s.Options = []string{"-d"} }, "waits for the container"},
		{func(s *Spec) { s.Options = []string{"-itd"} }, "waits for the container"},
		{func(s *Spec) { s.Options = []string{"--detach"} }, "waits for the container"},
		{func(s *Spec) { s.Options = []string{"-it"} }, "no terminal"},
		{func(s *Spec) { s.Options = []string{"--name=x"} }, "the activator sets it"},
		{func(s *Spec) { s.Options = []string{"--replace"} }, "the activator sets it"},
		{func(s *Spec) { s.Options = []string{"--rm=false"} }, "the activator sets it"},
		{func(s *Spec) { s.Options = []string{"--label=activator.config=/x"} }, "the activator sets it"},
		{func(s *Spec) { s.Options = []string{"--label", "activator.config=/x"} }, "the activator sets it"},
		{func(s *Spec) { s.Name = "web@1" }, "cannot be the name of a container"},
		{func(s *Spec) { s.Options = []string{"--tz=UTC", "alpine"} }, "not an option"},
		{func(s *Spec) { s.Options = []string{"--"} }, "not an option"},
	} {
		s := Spec{Name: "web", Engine: "podman", Image: "localhost/web"}
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
