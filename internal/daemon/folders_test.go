package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"activator/internal/config"
	"activator/internal/process"
)

// Two services whose folders lie in each other, or are the same: what one's end removes of the other's, and
// what would belong to two users, is found at the key of the one that comes later.
func TestFoldersOfTwoServices(t *testing.T) {
	const (
		gone   = ", which is removed with everything in it when that ends"
		user   = "user = \"61990\"\n"
		others = "user = \"61991\"\n"
	)
	for _, test := range []struct {
		name, a, b string
		want       string // "KEY: TEXT", the beginning; "": none
		root       bool   // an ordinary user's services have one user
	}{
		{"apart", "runtime_directory = \"own-a\"\n", "runtime_directory = \"own-b\"\nstate_directory = \"own-a\"\n", "", false},
		{"in what is removed", "runtime_directory = \"own-a\"\n", "runtime_directory = \"own-a/in\"\n", "service.runtime_directory: RUN/own-a/in: lies in runtime_directory \"own-a\" of service a" + gone, false},
		{"around it", "runtime_directory = \"own-a/in\"\n", "runtime_directory = [\"own-b\", \"own-a\"]\n", "service.runtime_directory: RUN/own-a/in: lies in runtime_directory \"own-a\" of service b" + gone, false},
		{"deep in it, the same user", user + "runtime_directory = \"own-a\"\n", user + "runtime_directory = \"own-a/b/c\"\n", "service.runtime_directory: RUN/own-a/b/c: lies in", true},
		{"one that both have", user + "runtime_directory = \"own-a\"\n", user + "runtime_directory = \"own-a\"\n", "", true},
		{"one that two users have", user + "runtime_directory = \"own-a\"\n", others + "runtime_directory = \"own-a\"\n", "service.runtime_directory: RUN/own-a: is runtime_directory \"own-a\" of service a too, and belongs to one user: a runs as uid 61990, b as uid 61991", true},
		{"state of two users of their own", "state_directory = \"own-a\"\n", "state_directory = \"own-a\"\n", "service.state_directory: /var/lib/own-a: is state_directory \"own-a\" of service a too, and belongs to one user: a runs as a user of its own, a, b as a user of its own, b", true},
		{"logs of two users", "logs_directory = \"own-a\"\n", user + "logs_directory = [\"x\", \"own-a\"]\n", "service.logs_directory: /var/log/own-a: is", true},
		{"state of one user", user + "state_directory = \"own-a\"\n", user + "state_directory = \"own-a\"\n", "", true},
		{"nested, two users", "cache_directory = \"own-a\"\n", "cache_directory = \"own-a/x\"\n", "service.cache_directory: /var/cache/own-a/x: lies in cache_directory \"own-a\" of service a, and may be moved by that", true},
		{"nested, one user", user + "cache_directory = \"own-a\"\n", user + "cache_directory = \"own-a/x\"\n", "", true},
		{"one service's own", "state_directory = [\"own-a\", \"own-a/x\"]\n", "", "", true},
		{"output in what is removed", "runtime_directory = \"own-a\"\n", "stdout = \"RUN/own-a/log\"\n", "service.stdout: RUN/own-a/log: lies in runtime_directory \"own-a\" of service a" + gone, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.root && os.Geteuid() != 0 {
				t.Skip("an ordinary user's services have one user")
			}
			env := config.HostEnv()
			b := newBench(t)
			for name, keys := range map[string]string{"a": test.a, "b": test.b} {
				b.write(name+".toml", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/%s.sock\"]\n[service]\n%s%s", b.dir, name, noBinary, strings.ReplaceAll(keys, "RUN", env.Runtime)), 0o644)
			}
			sources, err := config.Load([]string{b.dir + "/a.toml", b.dir + "/b.toml"}, config.HostEnv())
			if err != nil {
				t.Fatal(err)
			}
			starter, err := process.NewStarter()
			if err != nil {
				t.Fatal(err)
			}
			defer starter.Close()
			_, err = newExamination(starter, noAbilities{}, nil).planServices(context.Background(), sources, sources)
			var found config.Errors
			errors.As(err, &found)
			want := strings.ReplaceAll(test.want, "RUN", env.Runtime)
			switch {
			case want == "" && err == nil:
			case len(found) == 0 || want == "" || !strings.HasPrefix(found[0].Key+": "+found[0].Text, want):
				t.Errorf("found %v, want %q", err, want)
			case found[0].Line == 0 || found[0].Cure == "" || found[0].Host:
				t.Errorf("without a place or a cure, or blamed on the host: %+v", found[0])
			}
		})
	}
}
