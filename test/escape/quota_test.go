package escape

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// What the activator may have here, of which services share one number: descriptors in flight, instances and watches of
// inotify, processes.
const (
	quotaFiles     = 4000
	quotaInstances = 40
	quotaWatches   = 400
	quotaProcesses = 400
)

// quotaNamespace is an activator in a user namespace that may have only so much, so that what is used up here is nobody else's. It is
// root in it.
const quotaNamespace = `echo 40 >/proc/sys/user/max_inotify_instances && echo 400 >/proc/sys/user/max_inotify_watches &&
prlimit --pid $$ --nofile=4000 --nproc=400 && exec "$0" "$@"`

// quotaLimits is one without: there root's services have users of their own, whom limits of processes bind.
const quotaLimits = `prlimit --pid $$ --nproc=400 && exec "$0" "$@"`

const greedy = `[[socket]]
listen = ["unix://%s/greedy"]
[service]
exec = [%q, "exhaust", %q, "%d"]
warm = false
`

const honest = `[[socket]]
listen = ["unix://%s/honest"]
[service]
exec = ["/bin/cat"]
handover = "stdio"
accept = true
warm = false
`

// TestQuotas: one service takes all that it gets of what all services of the activator have one number of. It gets half of it at most, and
// another service starts meanwhile.
func TestQuotas(t *testing.T) {
	for what, all := range map[string]int{"inotify": quotaInstances, "watches": quotaWatches, "flight": quotaFiles, "processes": quotaProcesses} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			a := startGreedy(t, w, what, 2*all)
			c, err := net.Dial("unix", w.dir+"/greedy")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(waitTimeout))
			text := make([]byte, 100)
			n, err := c.Read(text)
			taken, bad := strconv.Atoi(string(bytes.TrimSpace(text[:n])))
			if err != nil || bad != nil {
				t.Fatalf("the service that takes says %q, %v, %v\n%s", text[:n], err, bad, a.output())
			}
			t.Logf("%d of %d", taken, all)
			if most := all * 9 / 10; taken > most {
				t.Errorf("GOT OUT: one service has %d of the %d that there are for all", taken, all)
			}
			if said := askHonest(t, w); said != "still here" {
				t.Errorf("GOT OUT: meanwhile another service says %q\n%s", said, a.output())
			}
		})
	}
}

func askHonest(t *testing.T, w *world) string {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: w.dir + "/honest", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(waitTimeout / 2))
	_, _ = io.WriteString(c, "still here")
	_ = c.CloseWrite()
	text, err := io.ReadAll(c)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// startGreedy starts an activator with a service that takes what there is, and an honest one.
func startGreedy(t *testing.T, w *world, what string, most int) *running {
	t.Helper()
	conf := filepath.Join(w.dir, "conf")
	if err := os.Mkdir(conf, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"greedy": fmt.Sprintf(greedy, w.dir, w.binary, what, most), "honest": fmt.Sprintf(honest, w.dir)} {
		if err := os.WriteFile(filepath.Join(conf, name+".toml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	argv := []string{"unshare", "--user", "--map-root-user", "sh", "-c", quotaNamespace}
	if what == "processes" && os.Geteuid() == 0 {
		argv = []string{"sh", "-c", quotaLimits}
	}
	argv = append(argv, program(t, "activator"), "--config", conf)
	a := &running{t: t, cmd: exec.Command(argv[0], argv[1:]...), log: &logged{ready: make(chan struct{})}, gone: make(chan struct{})}
	a.cmd.Stderr = a.log
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		a.err = a.cmd.Wait()
		close(a.gone)
	}()
	select {
	case <-a.log.ready:
		t.Cleanup(a.stop)
	case <-a.gone:
		t.Fatalf("the activator does not start:\n%s", a.output())
	}
	return a
}
