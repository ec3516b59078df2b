package test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"activator/internal/ktest"
)

// PostgreSQL makes its cluster at the first client, answers over TCP and a unix
// socket, and does pgbench's work over both.
func TestBindPostgreSQL(t *testing.T) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pgbench")
	if len(found) == 0 {
		ktest.Skip(t, "no pgbench in /usr/lib/postgresql: install postgresql")
	}
	bin, dir, n := filepath.Dir(found[len(found)-1]), openFolder(t), ktest.Port(t)
	pairs := []string{`handover = "proxy"`, `handover = "bind"`, `"tcp://127.0.0.1:5432"]`, fmt.Sprintf("\"tcp://127.0.0.1:%d\"]\ntarget = \"tcp://127.0.0.1:5432\"", n),
		"%t/activator-postgresql/.s.PGSQL.5432", fmt.Sprintf("%s/.s.PGSQL.%d", dir, n), `"activator-postgresql"`, `"` + stateFolder(t) + `"`}
	if os.Getuid() != 0 {
		pairs = append(pairs, `user = "postgres"`, "")
	}
	a := activate(t, "--config", example(t, "postgresql", pairs...))
	run := func(host, program string, args ...string) string {
		t.Helper()
		return command(t, "", append([]string{filepath.Join(bin, program), "--host=" + host, fmt.Sprint("--port=", n), "--username=postgres"}, args...)...)
	}
	awaitPostgreSQL(t, a, dir, n)
	run("127.0.0.1", "pgbench", "--initialize", "--quiet", "--scale=1", "postgres")
	for _, host := range []string{"127.0.0.1", dir} {
		if out := run(host, "pgbench", "--client=4", "--transactions=25", "postgres"); !strings.Contains(out, "actually processed: 100/100") {
			t.Errorf("pgbench at %s printed:\n%s", host, out)
		}
	}
	if got := run(dir, "psql", "--no-align", "--tuples-only", "--command=select count(*) from pgbench_history", "postgres"); got != "100\n" { // each pgbench begins a new one
		t.Errorf("there are %q transactions in the history, want 100", got)
	}
	if got := run("127.0.0.1", "psql", "--no-align", "--tuples-only", "--command=select inet_client_addr()", "postgres"); got != "127.0.0.1\n" {
		t.Errorf("it sees clients as %q", got)
	}
}

// awaitPostgreSQL wakes it. It listens before it is ready, and says so to early clients
// in between.
func awaitPostgreSQL(t *testing.T, a *activator, dir string, n int) {
	t.Helper()
	c, err := net.Dial("unix", fmt.Sprintf("%s/.s.PGSQL.%d", dir, n))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	a.wait("ready to accept connections")
}

// PostgreSQL listens at a unix socket inside, and does pgbench's work for clients over
// TCP. It listens before it is ready, and yet its first client is answered: of a cluster
// that is made for it, of one that was killed, and of one that was shut down.
func TestProxyPostgreSQL(t *testing.T) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pgbench")
	if len(found) == 0 {
		ktest.Skip(t, "no pgbench in /usr/lib/postgresql: install postgresql")
	}
	bin, dir, n := filepath.Dir(found[len(found)-1]), openFolder(t), ktest.Port(t)
	pairs := []string{`"tcp://127.0.0.1:5432"]`, fmt.Sprintf("\"tcp://127.0.0.1:%d\"]\ntarget = \"unix:///tmp/.s.PGSQL.5432\"", n),
		"%t/activator-postgresql/.s.PGSQL.5432", fmt.Sprintf("%s/.s.PGSQL.%d", dir, n), `"activator-postgresql"`, `"` + stateFolder(t) + `"`}
	if os.Getuid() != 0 {
		pairs = append(pairs, `user = "postgres"`, "")
	}
	a := activate(t, "--config", example(t, "postgresql", pairs...))
	for run, end := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT, syscall.SIGKILL, 0} {
		host := []string{"127.0.0.1", dir}[run%2]
		got := command(t, "", filepath.Join(bin, "psql"), "--host="+host, fmt.Sprint("--port=", n), "--username=postgres", "--no-align", "--tuples-only", "--command=select 6*7")
		if got != "42\n" {
			t.Fatalf("the first client of run %d is told %q", run, got)
		}
		if pid := pidOf(t, a, run+1); end != 0 {
			if err := syscall.Kill(pid, end); err != nil {
				t.Fatal(err)
			}
			gone(t, pid)
		}
	}
	for _, host := range []string{"127.0.0.1", dir} {
		base := []string{filepath.Join(bin, "pgbench"), "--host=" + host, fmt.Sprint("--port=", n), "--username=postgres"}
		command(t, "", append(base, "--initialize", "--quiet", "--scale=1", "postgres")...)
		if out := command(t, "", append(base, "--client=4", "--transactions=25", "postgres")...); !strings.Contains(out, "actually processed: 100/100") {
			t.Errorf("pgbench at %s printed:\n%s", host, out)
		}
	}
}
