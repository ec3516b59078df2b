package test

import (
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"activator/internal/ktest"
)

// loop is a server of a runtime's own event loop, in the folder loops. It binds port 5000 and /run/s.
type loop struct {
	source string
	needs  []string // programs, or files
	build  []string // its command; DIR is the folder of the source
	exec   []string // likewise
}

// newJava is a program of Java. It starts in a fifth of a second: no second compiler, and the archive of classes as it is.
func newJava(name string) loop {
	return loop{name + ".java", []string{"java", "javac"}, []string{"javac", "-d", "DIR", "DIR/" + name + ".java"},
		[]string{"java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", "DIR", name}}
}

// Real runtimes put their sockets into an epoll in an order of their own. Their clients are answered: in the first run, in the one
// after a crash, and in the one after an end for idleness.
func TestLoops(t *testing.T) {
	t.Parallel()
	for _, l := range []loop{
		{"asio.cc", []string{"g++", "/usr/include/asio.hpp"}, []string{"g++", "-O0", "-DASIO_STANDALONE", "-o", "DIR/asio", "DIR/asio.cc"}, []string{"DIR/asio"}},
		{"libev.c", []string{"gcc", "/usr/include/ev.h"}, []string{"gcc", "-O0", "-o", "DIR/libev", "DIR/libev.c", "-lev"}, []string{"DIR/libev"}},
		{"asyncio_server.py", []string{"python3"}, nil, []string{"python3", "DIR/asyncio_server.py"}},
		newJava("Selector"),
		newJava("Plain"),
	} {
		t.Run(l.source, func(t *testing.T) {
			t.Parallel()
			dir, n := openFolder(t), ktest.Port(t)
			a := activate(t, "--config", l.configure(t, dir, n))
			addrs := map[string]string{"tcp": fmt.Sprintf("127.0.0.1:%d", n), "udp": fmt.Sprintf("127.0.0.1:%d", n), "unix": dir + "/s"}
			last := dial(t, "tcp", addrs["tcp"]) // while it is there the service is not idle
			askEach(t, addrs)
			if _, err := last.Write([]byte("quit")); err != nil {
				t.Fatal(err)
			}
			a.wait("state=resting", "exit status 1")
			askEach(t, addrs)
			a.wait("state=stopping", " idle=")
			a.waitN(3, "state=listening")
			askEach(t, addrs)
			if n := a.log.count("level=WARN") + a.log.count("level=ERROR"); n != 1 { // the rest
				t.Errorf("%d complaints in the log", n)
			}
		})
	}
}

// configure builds the server, and returns the path of a file that runs it.
func (l loop) configure(t *testing.T, dir string, n int) string {
	t.Helper()
	for _, need := range l.needs {
		if !isFile(need) {
			installed(t, need)
		}
	}
	source, err := os.ReadFile("loops/" + l.source)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/"+l.source, source)
	in := func(argv []string) []string {
		return strings.Fields(strings.ReplaceAll(strings.Join(argv, " "), "DIR", dir))
	}
	if build := in(l.build); len(build) > 0 {
		command(t, "", build...)
	}
	return configureIn(t, dir, "loop", fmt.Sprintf(`
[[socket]]
listen = ["tcp://127.0.0.1:%[1]d"]
target = "tcp://:5000"
[[socket]]
listen = ["udp://127.0.0.1:%[1]d"]
target = "udp6://:5000"
broadcast = true
[[socket]]
listen = ["unix://%[2]s/s"]
target = "unix:///run/s"
[service]
exec = ["%[3]s"]
handover = "bind"
idle_timeout = "200ms"
[sandbox]
read_only = [%[2]q]
`, n, dir, strings.Join(in(l.exec), `", "`)))
}

func dial(t *testing.T, network, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// askEach has five clients at once ask at each address, and five more when those are answered: these find a loop that waits.
func askEach(t *testing.T, addrs map[string]string) {
	t.Helper()
	for range 2 {
		var wg sync.WaitGroup
		for network, addr := range addrs {
			for i := range 5 {
				wg.Go(func() {
					if err := ask(network, addr, i); err != nil {
						t.Errorf("client %d of %s: %v", i, network, err)
					}
				})
			}
		}
		wg.Wait()
	}
}
