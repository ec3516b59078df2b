package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"activator/internal/ktest"
)

// exampleIn copies an example and its files, with words changed that a test cannot
// share with the host, and returns the configuration's path.
func exampleIn(t *testing.T, dir, name string, changes ...string) string {
	t.Helper()
	change := strings.NewReplacer(changes...)
	files, err := filepath.Glob("../configs/files/*")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "files"), 0o755); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name+".toml")
	copied := map[string]string{"../configs/" + name + ".toml": path}
	for _, file := range files {
		copied[file] = filepath.Join(dir, "files", filepath.Base(file))
	}
	for from, to := range copied {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, []byte(change.Replace(string(text))), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// Each program is started by the word it has of its own for sockets it is
// passed, and answers by HTTP.
func TestDialects(t *testing.T) {
	for _, tt := range []struct {
		name, program string
		port          int // in the example
		hosts         []string
		needs         string // a file of a library
	}{
		{"nginx-fds", "nginx", 8080, []string{"127.0.0.1", "[::1]"}, ""},
		{"haproxy", "haproxy", 8081, []string{"127.0.0.1"}, ""},
		{"uvicorn", "python3", 8082, []string{"127.0.0.1"}, "/usr/lib/python3/dist-packages/uvicorn/__init__.py"},
		{"gunicorn", "gunicorn", 8083, []string{"127.0.0.1"}, ""},
		{"server-starter", "perl", 8084, []string{"127.0.0.1"}, "/usr/share/perl5/Server/Starter.pm"},
		{"einhorn", "python3", 8085, []string{"127.0.0.1", "[::1]"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := installed(t, tt.program)
			if _, err := os.Stat(tt.needs); tt.needs != "" && err != nil {
				ktest.Skip(t, "%v: install it", err)
			}
			n := ktest.Port(t)
			a := activate(t, "--config", exampleIn(t, folder(t), tt.name,
				fmt.Sprint(":", tt.port), fmt.Sprint(":", n), "/usr/bin/"+tt.program, path, "/usr/sbin/"+tt.program, path))
			want := strings.TrimSuffix(tt.name, "-fds") + "\n"
			for i := range 6 {
				url := fmt.Sprintf("http://%s:%d/", tt.hosts[i%len(tt.hosts)], n)
				if got := command(t, "", "curl", "--silent", "--show-error", "--max-time", "30", url); got != want {
					t.Errorf("curl %s printed %q, want %q", url, got, want)
				}
			}
			askAtOnce(t, fmt.Sprintf("http://%s:%d/", tt.hosts[0], n), want)
			pidOf(t, a, 1) // of one run
			a.stop()
		})
	}
}

// askAtOnce asks again and again by several clients at a time: all workers wake up for
// one of them, and none may stand still because another one was faster.
func askAtOnce(t *testing.T, url, want string) {
	t.Helper()
	for range 30 {
		var clients sync.WaitGroup
		for range 8 {
			clients.Go(func() {
				if status, body, err := get(url); status != 200 || string(body) != want || err != nil {
					t.Errorf("one of eight at once: status %d, %q, want %q: %v", status, body, want, err)
				}
			})
		}
		clients.Wait()
		if t.Failed() {
			return
		}
	}
}
