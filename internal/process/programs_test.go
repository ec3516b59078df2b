package process

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"activator/internal/ktest"
	"activator/internal/spec"
)

// strict is the whole default sandbox, as the configuration will have it.
var strict = spec.Sandbox{Seal: true}

// findProgram is where one is installed, or skips: a pyenv's is not seen inside.
func findProgram(t *testing.T, patterns ...string) string {
	t.Helper()
	for _, pattern := range patterns {
		if path, err := exec.LookPath(pattern); err == nil {
			return path
		}
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[len(found)-1]
		}
	}
	ktest.Skip(t, "%q: install it", patterns)
	return ""
}

// sandboxed is the specification of a program in the strict sandbox.
func sandboxed(argv ...string) spec.Process {
	return spec.Process{Name: "program", Argv: argv, Umask: 0o22, Sandbox: strict,
		Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LANG=C.UTF-8", "HOME=/tmp"}}
}

// run starts a program whose output is a pipe that it may open anew, as
// /dev/stdout: a pipe belongs to who made it.
func run(t *testing.T, process spec.Process, sockets ...*os.File) *service {
	t.Helper()
	id, err := findIdentity(&process)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	defer func() { _ = w.Close() }()
	if err := w.Chown(id.uid, id.gid); err != nil {
		t.Fatal(err)
	}
	s := starterFor()
	t.Cleanup(s.Close)
	p, err := s.Prepare(t.Context(), process, Inputs{Stdio: Stdio{Out: w, Err: w}, Sockets: sockets})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	if err := p.Go(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &service{p, bufio.NewReader(r)}
}

// What a shell script does: pipes, files, job control, fifos, signals, /dev/std*.
const shellScript = `set -e
cd /tmp; mkdir a b; echo text > a/file; mv a/file b/file; ln b/file b/other; ln -s file b/link
cat b/link | sed s/t/T/ > /dev/stdout
mkfifo pipe; (echo through > pipe) & cat pipe; wait
trap 'echo caught' USR1; kill -USR1 $$
sleep 100 & kill $!; { wait $! || echo killed; } 2> /dev/null
dd if=/dev/zero of=big bs=1024 count=64 2>/dev/null; wc -c < big
head -c 16 /dev/urandom | wc -c
echo 5 > /proc/self/oom_score_adj; cat /proc/self/oom_score_adj
id -u > /dev/null; date > /dev/null; ls /proc/self/fd > /dev/null; uname > /dev/null; chmod 600 big; touch -d 2020-01-01 big
rm -r a b pipe big; ls /tmp
(echo no > /etc/passwd) 2>/dev/null || echo read-only
echo end`

const shellAnswer = "Text\nthrough\ncaught\nkilled\n65536\n16\n5\nread-only\nend\n"

func TestShells(t *testing.T) {
	ktest.Filters(t)
	for _, shell := range [][]string{{findProgram(t, "/bin/bash")}, {findProgram(t, "/bin/sh")}, {findProgram(t, "/bin/busybox"), "sh"}} {
		for _, init := range []bool{false, true} {
			process := sandboxed(append(shell, "-c", shellScript)...)
			process.Sandbox.Init = init
			if out, exit := run(t, process).end(t); out != shellAnswer || !exit.OK() {
				t.Errorf("%q, init %v: %v, got\n%s", shell, init, exit, out)
			}
		}
	}
}

// What services in Python use of the system.
const pythonScript = `
import asyncio, ctypes, mmap, multiprocessing, os, select, shutil, signal, socket, ssl, subprocess, sqlite3, sys, tempfile, threading, time
print(subprocess.run(["/bin/echo", "child"], capture_output=True, text=True).stdout.strip())
a, b = socket.socketpair(); a.send(b"pair"); print(b.recv(4).decode())
async def main():
    p = await asyncio.create_subprocess_exec("/bin/echo", "async", stdout=subprocess.PIPE)
    print((await p.communicate())[0].decode().strip())
    await asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.001)
asyncio.run(main())
with multiprocessing.Pool(2) as pool: print(sum(pool.map(abs, [-1, -2, -3])))
t = threading.Thread(target=print, args=("thread",)); t.start(); t.join()
db = sqlite3.connect(tempfile.mkdtemp() + "/db"); db.execute("create table t(x)"); db.execute("insert into t values (7)"); db.commit(); print(db.execute("select x from t").fetchone()[0])
m = mmap.mmap(-1, 4096); m[:2] = b"ok"; print(m[:2].decode())
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("127.0.0.1", 0)); u.sendto(b"loop", u.getsockname()); print(u.recv(9).decode())
x = socket.socket(socket.AF_UNIX); x.bind("/tmp/own"); x.listen(); x.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536); print("unix")
print([i[1] for i in socket.if_nameindex()])
signal.signal(signal.SIGALRM, lambda *a: print("alarm")); signal.setitimer(signal.ITIMER_REAL, 0.01); signal.pause()
e = select.epoll(); e.register(u.fileno(), select.EPOLLIN); print(e.poll(0))
ctypes.CDLL(None).getpid(); ssl.create_default_context(); shutil.disk_usage("/tmp"); os.sched_getaffinity(0); os.nice(1)
try: socket.create_connection(("127.0.0.1", 1))
except PermissionError: print("no connect")
print("end")
`

const pythonAnswer = "child\npair\nasync\n6\nthread\n7\nok\nloop\nunix\n['lo']\nalarm\n[]\nno connect\nend\n"

func TestPython(t *testing.T) {
	ktest.Filters(t)
	if out, exit := run(t, sandboxed(findProgram(t, "/usr/bin/python3"), "-c", pythonScript)).end(t); out != pythonAnswer || !exit.OK() {
		t.Errorf("%v, got\n%s", exit, out)
	}
}

// listening is a listener for a service to inherit, and its address.
func listening(t *testing.T) (socket *os.File, address string) {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if socket, err = l.File(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	return socket, l.Addr().String()
}

// fetch gets a page, which it may have to wait for.
func fetch(t *testing.T, address string) string {
	t.Helper()
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + address + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

const nginxConfig = `daemon off; pid /tmp/pid; error_log /dev/stderr notice; worker_processes 2;
events {}
http { access_log /dev/stdout; sendfile on; tcp_nopush on; aio threads; open_file_cache max=10;
 client_body_temp_path /tmp/1; proxy_temp_path /tmp/2; fastcgi_temp_path /tmp/3; uwsgi_temp_path /tmp/4; scgi_temp_path /tmp/5;
 server { listen %s so_keepalive=on; location / { default_type text/plain; root /data; try_files /page =404; } } }
`

// nginx with the socket it takes from an older nginx, which is what NGINX= is for.
func TestNginx(t *testing.T) {
	ktest.Filters(t)
	nginx := findProgram(t, "/usr/sbin/nginx")
	socket, address := listening(t)
	dir := shared(t)
	write(t, dir+"/page", "from nginx", 0o644)
	write(t, dir+"/conf", fmt.Sprintf(nginxConfig, address), 0o644)
	process := sandboxed(nginx, "-c", "/data/conf", "-t")
	process.Sandbox.ReadOnly = []spec.Mount{{Host: dir, Inside: "/data"}}
	process.Env = append(process.Env, "NGINX=3;") // it cannot bind one of its own
	process.FDNames = []string{"web"}
	if out, exit := run(t, process, socket).end(t); !exit.OK() {
		t.Errorf("%v: %s", exit, out)
	}
	process.Argv = process.Argv[:3]
	s := run(t, process, socket)
	for range 3 {
		if page := fetch(t, address); page != "from nginx" {
			t.Errorf("%q", page)
		}
	}
	stopped(t, s, syscall.SIGQUIT)
}

// stopped asks for the end, and is content with a good one.
func stopped(t *testing.T, s *service, sig syscall.Signal) {
	t.Helper()
	if killed, err := s.Stop(sig); killed || err != nil {
		t.Errorf("killed %v, %v", killed, err)
	}
	if out, exit := s.end(t); !exit.OK() {
		t.Errorf("%v: %s", exit, out)
	}
}

const gunicornApp = `def app(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [('for ' + environ['REMOTE_ADDR']).encode()]
`

func TestGunicorn(t *testing.T) {
	ktest.Filters(t)
	gunicorn := findProgram(t, "/usr/bin/gunicorn")
	socket, address := listening(t)
	dir := shared(t)
	write(t, dir+"/site_app.py", gunicornApp, 0o644)
	// A worker that has only just been forked misses its SIGTERM, and gets 30 s by default.
	process := sandboxed(gunicorn, "--workers", "2", "--threads", "2", "--graceful-timeout", "1", "--chdir", "/data", "site_app:app")
	process.Sandbox.ReadOnly = []spec.Mount{{Host: dir, Inside: "/data"}}
	process.FDNames = []string{"web"}
	s := run(t, process, socket)
	if page := fetch(t, address); page != "for 127.0.0.1" {
		t.Errorf("%q", page)
	}
	stopped(t, s, syscall.SIGTERM)
}

// waitLine reads until a line has text.
func waitLine(t *testing.T, s *service, text string) {
	t.Helper()
	var seen strings.Builder
	for {
		line, err := s.out.ReadString('\n')
		seen.WriteString(line)
		if strings.Contains(line, text) {
			return
		}
		if err != nil {
			t.Fatalf("%v: no %q in\n%s", err, text, seen.String())
		}
	}
}

func TestRedis(t *testing.T) {
	ktest.Filters(t)
	redis := findProgram(t, "/usr/bin/redis-server")
	s := run(t, sandboxed(redis, "--port", "0", "--unixsocket", "/tmp/socket", "--dir", "/tmp", "--save", "1 1", "--appendonly", "yes"))
	waitLine(t, s, "eady to accept connections")
	stopped(t, s, syscall.SIGTERM)
}

// PostgreSQL makes a cluster, answers a query on its own, and serves with all its
// processes, semaphores and shared memory.
func TestPostgres(t *testing.T) {
	ktest.Filters(t)
	bin := filepath.Dir(findProgram(t, "/usr/lib/postgresql/*/bin/postgres"))
	process := sandboxed("/bin/sh", "-ec", `
"$0/initdb" --no-sync --auth=trust --username=me -D /tmp/db > /tmp/log || { cat /tmp/log; exit 1; }
echo 'select 40 + 2 as answer' | "$0/postgres" --single -D /tmp/db postgres
exec "$0/postgres" -D /tmp/db -c listen_addresses= -c unix_socket_directories=/tmp -c fsync=off`, bin)
	// The service's user needs a name, which initdb looks up.
	process.Sandbox.ReadOnly = []spec.Mount{{Host: write(t, shared(t)+"/passwd", fmt.Sprintf("me:x:%d:%d::/tmp:/bin/sh\n", uidInside(t, process), uidInside(t, process)), 0o644), Inside: "/etc/passwd"}}
	s := run(t, process)
	waitLine(t, s, `answer = "42"`)
	waitLine(t, s, "ready to accept connections")
	stopped(t, s, syscall.SIGINT)
}

func uidInside(t *testing.T, process spec.Process) int {
	t.Helper()
	id, err := findIdentity(&process)
	if err != nil {
		t.Fatal(err)
	}
	return id.uid
}
