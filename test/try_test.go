package test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"activator/internal/ktest"
)

// trial is a run of `activator try`.
type trial struct {
	*activator
	printed *bytes.Buffer
}

func try(t *testing.T, file string) *trial {
	t.Helper()
	printed := new(bytes.Buffer)
	cmd := exec.Command(program(t, "activator"), "try", file)
	cmd.Stdout = printed
	a := launchAs(t, cmd)
	t.Cleanup(func() {
		a.stop()
		if t.Failed() {
			t.Logf("the log of try:\n%s\nit printed\n%s", tail(a.log.all(), 60), printed)
		}
	})
	return &trial{a, printed}
}

// finish ends it as ^C does, if it has not ended by itself, and returns what it has printed.
func (r *trial) finish() string {
	r.t.Helper()
	_ = r.cmd.Process.Signal(syscall.SIGINT)
	r.stop()
	return r.printed.String()
}

// awaitAny waits until the log has one of some lines, each by its words, and returns its number; -1: it has ended before.
func (r *trial) awaitAny(lines ...[]string) int {
	r.t.Helper()
	limit := time.After(waitTimeout)
	for {
		r.log.mu.Lock()
		text, more, ended := r.log.text, r.log.more, r.log.ended
		r.log.mu.Unlock()
		for _, line := range text {
			for i, words := range lines {
				if hasAll(line, words) {
					return i
				}
			}
		}
		if ended {
			return -1
		}
		select {
		case <-more:
		case <-limit:
			r.t.Fatalf("none of %q", lines)
		}
	}
}

// triedDaemon is a daemon with its own configuration, of which ours says nothing but listen and exec.
type triedDaemon struct {
	name    string
	needs   []string
	files   map[string]string // of its own; NAME, PORT and DIR are in them, as in exec
	prepare func(t *testing.T, dir, data string)
	exec    []string // DATA: a folder where it keeps its own
	says    string
	ask     func(t *testing.T, n int, dir string) string
}

func triedDaemons(t *testing.T) []triedDaemon {
	read := func(name string, changes ...string) string {
		text, err := os.ReadFile("../configs/files/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return strings.NewReplacer(changes...).Replace(string(text))
	}
	fpm, _ := filepath.Glob("/usr/sbin/php-fpm[0-9]*")
	return []triedDaemon{
		{name: "apache", needs: []string{"apache2", "curl"}, files: map[string]string{"apache.conf": read("apache.conf", "/srv/www", "DIR/www"), "www/index.html": "from apache"},
			exec: []string{"apache2", "-D", "FOREGROUND", "-f", "DIR/apache.conf"}, says: "from apache", ask: page("/index.html")},
		{name: "mariadb", needs: []string{"mariadbd", "mariadb", "mariadb-install-db"}, prepare: func(t *testing.T, _, data string) {
			command(t, "", "mariadb-install-db", "--no-defaults", "--datadir="+data, "--auth-root-authentication-method=normal", "--skip-test-db")
		}, exec: []string{"mariadbd", "--no-defaults", "--datadir=DATA", "--bind-address=127.0.0.1", "--port=PORT", "--socket=/run/NAME/s", "--pid-file=/run/NAME/p"},
			says: "42", ask: run("mariadb", "--no-defaults", "--host=127.0.0.1", "--port=PORT", "--user=root", "--execute=select 6*7")},
		{name: "cups", needs: []string{"cupsd", "lpstat"}, files: map[string]string{"cupsd.conf": read("cupsd.conf", "6310", "PORT") + "Printcap\n", "cups-files.conf": read("cups-files.conf")},
			exec: []string{"cupsd", "-f", "-c", "DIR/cupsd.conf", "-s", "DIR/cups-files.conf"}, says: "scheduler is running", ask: run("lpstat", "-h", "127.0.0.1:PORT", "-r")},
		{name: "php-fpm", needs: append([]string{"php-fpm"}, fpm[max(0, len(fpm)-1):]...), files: map[string]string{"fpm.conf": "[global]\nerror_log = /dev/stderr\n[www]\nlisten = 127.0.0.1:PORT\npm = static\npm.max_children = 2\n",
			"www/hello.php": `<?php echo "from php";`}, exec: append(fpm[max(0, len(fpm)-1):len(fpm):len(fpm)], "--nodaemonize", "--fpm-config", "DIR/fpm.conf"),
			says: "from php", ask: func(t *testing.T, n int, dir string) string { return askFastCGI(t, n, dir+"/www/hello.php") }},
		{name: "mosquitto", needs: []string{"mosquitto", "mosquitto_pub"}, files: map[string]string{"mosquitto.conf": read("mosquitto.conf", "1883", "PORT") + "persistence_location /var/lib/NAME/\n"},
			exec: []string{"mosquitto", "-c", "DIR/mosquitto.conf"}, says: "hello", ask: func(t *testing.T, n int, dir string) string {
				run("mosquitto_pub", "-h", "127.0.0.1", "-p", "PORT", "-t", "a", "-r", "-m", "hello")(t, n, dir)
				return run("mosquitto_sub", "-h", "127.0.0.1", "-p", "PORT", "-t", "a", "-C", "1")(t, n, dir)
			}},
		{name: "node-exporter", needs: []string{"prometheus-node-exporter", "curl"}, exec: []string{"prometheus-node-exporter", "--web.listen-address=127.0.0.1:PORT"}, says: "node_load1", ask: page("/metrics")},
		{name: "radicale", needs: []string{"radicale", "curl"}, files: map[string]string{"radicale.conf": read("radicale.conf", "5232", "PORT", "collections", "/var/lib/NAME/collections")},
			exec: []string{"radicale", "--config", "DIR/radicale.conf"}, says: "200 OK", ask: page("/.web/")},
		{name: "transmission", needs: []string{"transmission-daemon", "transmission-remote"},
			exec: []string{"transmission-daemon", "--foreground", "--config-dir", "/var/lib/NAME", "--rpc-bind-address", "127.0.0.1", "--port", "PORT", "--no-portmap", "--no-auth"},
			says: "Sum:", ask: run("transmission-remote", "127.0.0.1:PORT", "--list")},
	}
}

// triedServers are daemons with next to nothing of their own.
func triedServers() []triedDaemon {
	const index = "www/index.html"
	temporary := ""
	for _, way := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		temporary += way + "_temp_path /var/lib/NAME/" + way + ";\n"
	}
	files := map[string]string{index: "from a file", "Caddyfile": "http://127.0.0.1:PORT\nroot * DIR/www\nfile_server\n"}
	return []triedDaemon{
		{name: "python", needs: []string{"python3", "curl"}, files: files, exec: []string{"python3", "-m", "http.server", "--directory", "DIR/www", "8000"}, says: "from a file", ask: page("/")},
		{name: "nginx", needs: []string{"nginx", "curl"}, files: map[string]string{index: "from nginx", "nginx.conf": "daemon off;\nevents {}\nhttp {\naccess_log off;\n" + temporary + "server { listen 127.0.0.1:PORT; location / { return 200 \"from nginx\"; } } }\n"},
			exec: []string{"nginx", "-e", "stderr", "-c", "DIR/nginx.conf"}, says: "from nginx", ask: page("/")},
		{name: "redis", needs: []string{"redis-server", "redis-cli"}, exec: []string{"redis-server", "--port", "PORT"}, says: "PONG", ask: run("redis-cli", "-p", "PORT", "ping")},
		{name: "memcached", needs: []string{"memcached"}, exec: []string{"memcached", "-l", "127.0.0.1", "-p", "PORT"}, says: "VERSION", ask: sayTo("version\r\nquit\r\n")},
		{name: "haproxy", needs: []string{"haproxy", "curl"}, files: map[string]string{"haproxy.cfg": "defaults\n mode http\n timeout client 1m\n timeout server 1m\n timeout connect 1m\nfrontend f\n bind 127.0.0.1:PORT\n http-request return status 200 content-type text/plain string \"from haproxy\"\n"},
			exec: []string{"haproxy", "-db", "-f", "DIR/haproxy.cfg"}, says: "from haproxy", ask: page("/")},
		{name: "caddy", needs: []string{"caddy", "curl"}, files: files, exec: []string{"caddy", "file-server", "--listen", "127.0.0.1:PORT", "--root", "DIR/www"}, says: "from a file", ask: page("/")},
		{name: "uwsgi", needs: []string{"uwsgi", "/usr/lib/uwsgi/plugins/python3_plugin.so", "curl"}, files: map[string]string{"app.py": "def application(e, s):\n s('200 OK', [])\n return [b'from uwsgi']\n"},
			exec: []string{"uwsgi", "--plugin", "python3", "--die-on-term", "--http-socket", ":PORT", "--wsgi-file", "DIR/app.py"}, says: "from uwsgi", ask: page("/")},
		{name: "node", needs: []string{"node", "curl"}, files: map[string]string{"m.js": "exports.text = require('fs').readFileSync(__dirname + '/text')\n", "text": "from node",
			"app.js": "const m = require('./m.js'); process.on('SIGTERM', () => process.exit()); require('http').createServer((q, r) => r.end(m.text)).listen(PORT)\n"},
			exec: []string{"node", "DIR/app.js"}, says: "from node", ask: page("/")},
		{name: "kresd", needs: []string{"kresd"}, files: map[string]string{"kresd.conf": "net.listen('127.0.0.1', PORT)\n"}, exec: []string{"kresd", "-n", "-c", "DIR/kresd.conf"}, says: "localhost", ask: askName("localhost")},
		{name: "rsync", needs: []string{"rsync"}, files: map[string]string{"rsyncd.conf": "[x]\npath = /srv\n"},
			exec: []string{"rsync", "--daemon", "--no-detach", "--port=PORT", "--config=DIR/rsyncd.conf"}, says: "@RSYNCD:", ask: sayTo("@RSYNCD: 31.0\n#list\n")},
	}
}

// sayTo says something, and returns all of the answer, or what there is of it when the daemon goes away.
func sayTo(text string) func(t *testing.T, n int, dir string) string {
	return func(t *testing.T, n int, _ string) string {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", n))
		if err != nil { // it has ended, and with it the trial
			return err.Error()
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(waitTimeout))
		_, _ = io.WriteString(c, text)
		answer, _ := io.ReadAll(c)
		return string(answer)
	}
}

// askName asks for a name by DNS, once over TCP, and returns what comes back: a daemon that ends has none.
func askName(name string) func(t *testing.T, n int, dir string) string {
	question := append([]byte{0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, byte(len(name))}, name...)
	question = append(question, 0, 0, 1, 0, 1)
	return func(t *testing.T, n int, _ string) string {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", n))
		if err != nil { // it has ended, and with it the trial
			return err.Error()
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(waitTimeout))
		_, _ = c.Write(append([]byte{0, byte(len(question))}, question...))
		answer := make([]byte, 2+len(question))
		size, _ := io.ReadFull(c, answer)
		return string(answer[:size])
	}
}

// A terminal that is closed ends it as ^C does: it prints what is needed, and leaves no socket behind.
func TestTryHangup(t *testing.T) {
	dir := folder(t)
	r := try(t, configureIn(t, dir, "shop", "[[socket]]\nlisten = [\"unix://"+dir+"/s\"]\n[service]\nexec = [\"/bin/sleep\", \"100\"]\n"))
	r.wait("msg=\"trying: ")
	_ = r.cmd.Process.Signal(syscall.SIGHUP)
	if text := r.finish(); !strings.Contains(text, "listen = [\"unix://"+dir+"/s\"]") {
		t.Errorf("it printed %q", text)
	}
	if isFile(dir+"/s") || isFile(dir+"/.s.activator") {
		t.Error("its socket is left")
	}
}

// From exec and listen alone each daemon arrives at a configuration by which it works, in at most two runs of try.
func TestTry(t *testing.T) {
	for _, d := range append(triedDaemons(t), triedServers()...) {
		t.Run(d.name, func(t *testing.T) {
			dir, n, name := openFolder(t), ktest.Port(t), stateFolder(t)
			for _, need := range d.needs {
				if need == "php-fpm" && len(d.needs) == 1 {
					ktest.Skip(t, "no php-fpm: install it")
				} else if need != "php-fpm" && !isFile(need) {
					installed(t, need)
				}
			}
			data := dir + "/data"
			if os.Getuid() == 0 { // whose services have a user of their own
				data = "/var/lib/" + name
			}
			fill := strings.NewReplacer("DATA", data, "DIR", dir, "PORT", fmt.Sprint(n), "NAME", name).Replace
			for file, text := range d.files {
				if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755); err != nil {
					t.Fatal(err)
				}
				writeFile(t, filepath.Join(dir, file), []byte(fill(text)))
			}
			if d.prepare != nil {
				if err := os.Mkdir(data, 0o755); err != nil {
					t.Fatal(err)
				}
				d.prepare(t, dir, data)
			}
			argv := make([]string, len(d.exec))
			for i, arg := range d.exec {
				argv[i] = fmt.Sprintf("%q", fill(arg))
			}
			text := fmt.Sprintf("[[socket]]\nlisten = [\"tcp://127.0.0.1:%d\"]\n[service]\nexec = [%s]\n", n, strings.Join(argv, ", "))
			for range 2 {
				text = d.tryOnce(t, configureIn(t, dir, name, text), text, n, dir)
			}
			a := activate(t, "--config", configureIn(t, dir, name, text))
			for range 2 {
				if got := d.ask(t, n, dir); !strings.Contains(got, d.says) {
					t.Errorf("%q, without %q", got, d.says)
				}
			}
			if n := a.log.count("level=WARN") + a.log.count("level=ERROR"); n > 0 {
				t.Errorf("%d complaints in the log", n)
			}
			if t.Failed() {
				t.Logf("by\n%s", text)
			}
		})
	}
}

// tryOnce tries a configuration until the program ends or binds what no client reaches, or a client has been served.
func (d *triedDaemon) tryOnce(t *testing.T, file, text string, n int, dir string) string {
	t.Helper()
	r := try(t, file)
	up := []string{"service running"}
	if !strings.Contains(text, `handover = "bind"`) {
		up = []string{"nothing says so"}
	}
	if r.awaitAny([]string{"program binds"}, up) == 1 {
		_ = d.ask(t, n, dir)
	}
	printed := r.finish()
	if !strings.Contains(printed, "[service]") {
		t.Fatalf("%q", printed)
	}
	return printed
}

// askFastCGI asks for a script by the protocol of FastCGI, and returns what comes back.
func askFastCGI(t *testing.T, n int, script string) string {
	t.Helper()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", n))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(waitTimeout))
	record := func(kind byte, body []byte) []byte {
		head := []byte{1, kind, 0, 1, 0, 0, 0, 0}
		binary.BigEndian.PutUint16(head[4:], uint16(len(body)))
		return append(head, body...)
	}
	var params []byte
	for _, p := range [][2]string{{"REQUEST_METHOD", "GET"}, {"SCRIPT_FILENAME", script}, {"SCRIPT_NAME", "/x.php"}, {"REQUEST_URI", "/x.php"}} {
		params = append(append(append(params, byte(len(p[0])), byte(len(p[1]))), p[0]...), p[1]...)
	}
	request := append(record(1, []byte{0, 1, 0, 0, 0, 0, 0, 0}), record(4, params)...) // a responder, once
	request = append(append(request, record(4, nil)...), record(5, nil)...)
	if _, err := c.Write(request); err != nil {
		t.Error(err)
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		t.Error(err)
	}
	return string(answer)
}

// triedProgram is one of Python, and what is printed for it but its exec; DIR is a folder of the host's.
type triedProgram struct {
	name, program, config string
	has, hasNot           []string
}

// answerEach answers one client at a time.
const answerEach = "\ns = socket(fileno=3)\nwhile True: c, _ = s.accept(); c.recv(1); c.send(b'hello'); c.close()\n"

func triedPrograms() []triedProgram {
	const sockets = "import os, sys; from socket import *\n"
	return []triedProgram{
		{"nothing", sockets + answerEach, "", nil, []string{"#", "[sandbox]", "handover"}},
		{"with a reaper", sockets + answerEach, "[sandbox]\ninit = true\n", []string{"init = true"}, []string{"#", "handover"}},
		{"a file", sockets + "open('DIR/one').read()", "", []string{"# it looks for DIR/one", `read_only = ["DIR/one"]`}, nil},
		{"files of a folder", sockets + "for n in range(5):\n try: open(f'DIR/many/{n}')\n except OSError: pass" + answerEach, "", []string{`read_only = ["DIR/many"]`}, []string{"DIR/many/1\""}},
		{"on the way", sockets + "os.path.realpath('DIR/many/1')" + answerEach, "", nil, []string{`"DIR"`, `"/tmp"`}},
		{"a link", sockets + "open('DIR/link')", "", []string{`read_only = ["DIR/one:DIR/link"]`}, nil},
		{"writes", sockets + "open('DIR/many/new', 'w')", "", []string{`writable = ["DIR/many"]`}, nil},
		{"nobody has it", sockets + "open('/data/none')", "", nil, []string{"read_only", "/data"}},
		{"connects and fails", sockets + "socket().connect(('127.0.0.1', 5432))", "", []string{"# it was refused to connect to tcp://127.0.0.1:5432", `connect = "any"`}, nil},
		{"connects and goes on", sockets + "try: socket().connect(('127.0.0.1', 5432))\nexcept OSError: pass" + answerEach, "", []string{"# Not in it", "# it was refused to connect to tcp://127.0.0.1:5432"}, []string{"\nconnect = "}},
		{"binds another port", sockets + "s = socket(); s.bind(('127.0.0.1', 9009)); s.listen(); s.accept()", "", []string{`handover = "bind"`, `target = "tcp://127.0.0.1:9009"`}, nil},
		{"binds beside", sockets + "try: socket().bind(('127.0.0.1', 9009))\nexcept OSError: pass" + answerEach, "", []string{"# it binds tcp://127.0.0.1:9009 itself"}, []string{"handover"}},
		{"a name of its own", sockets + "open('DIR/a\\n[sandbox]\\nconnect = \"any\"').read()", "", []string{"read_only"}, []string{"\nconnect"}},
		{"two lines", sockets + "try: socket(AF_UNIX).connect('/run/a\\n[sandbox]')\nexcept OSError: pass" + answerEach, "", []string{"# it was refused to connect"}, []string{"\n[sandbox]"}},
		{"another user", sockets + "\ntry: os.setuid(4242)\nexcept OSError: sys.exit(1)", "", []string{"4242"}, nil},
	}
}

// What a program lacks is in what is printed, and nothing else.
func TestTryPrograms(t *testing.T) {
	for _, p := range triedPrograms() {
		t.Run(p.name, func(t *testing.T) {
			dir, n := openFolder(t), ktest.Port(t)
			if err := os.Mkdir(dir+"/many", 0o755); err != nil {
				t.Fatal(err)
			}
			for _, file := range []string{"one", "many/0", "many/1", "many/2", "many/3", "many/4", "a\n[sandbox]\nconnect = \"any\""} {
				writeFile(t, dir+"/"+file, nil)
			}
			if err := os.Symlink("one", dir+"/link"); err != nil {
				t.Fatal(err)
			}
			fill := strings.NewReplacer("DIR", dir).Replace
			text := fmt.Sprintf("[[socket]]\nlisten = [\"tcp://127.0.0.1:%d\"]\n[service]\nexec = [\"python3\", \"-c\", %q]\n%s", n, fill(p.program), p.config)
			printed := p.tryWith(t, configureIn(t, dir, "shop", text), n)
			before, rest, _ := strings.Cut(printed, "\nexec = ")
			_, rest, _ = strings.Cut(rest, "\n") // behind the program's text
			added := before + "\n" + rest
			for _, want := range p.has {
				if !strings.Contains(added, fill(want)) {
					t.Errorf("without %q:\n%s", fill(want), added)
				}
			}
			for _, not := range p.hasNot {
				if strings.Contains(added, fill(not)) {
					t.Errorf("with %q:\n%s", fill(not), added)
				}
			}
			again := configureIn(t, dir, "again", printed)
			if out := command(t, "", program(t, "activator"), "check", again); !strings.Contains(out, "good") {
				t.Errorf("check says %q of\n%s", out, printed)
			}
		})
	}
}

// tryWith tries it with a client, if it has one.
func (p *triedProgram) tryWith(t *testing.T, file string, n int) string {
	t.Helper()
	r := try(t, file)
	if !strings.Contains(p.program, answerEach) {
		r.awaitAny([]string{"program binds"})
		return r.finish()
	}
	r.wait("trying:")
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", n))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write([]byte("x"))
	if answer, err := io.ReadAll(c); string(answer) != "hello" {
		t.Errorf("%q, %v", answer, err)
	}
	return r.finish()
}

// What a file says stays as it is written, and what is added stands in the table that it is of. A second run adds nothing.
func TestTryKeepsText(t *testing.T) {
	dir, n := openFolder(t), ktest.Port(t)
	for _, file := range []string{"one", "own.toml"} {
		writeFile(t, dir+"/"+file, nil)
	}
	program := fmt.Sprintf("from socket import *\ntry: open('%s/one')\nexcept OSError: pass\ntry: socket(AF_UNIX).connect('/run/x')\nexcept OSError: pass%s", dir, answerEach)
	const sandbox = "\n# closed, but for\n[sandbox] # these\ninit = true\n"
	head := fmt.Sprintf("# mine\n[[socket]]\nlisten = ['tcp://127.0.0.1:%d'] # %%h\n\n[service]\nenvironment = { X = '%%h' }\nexec = ['python3', \"-c\", %q]\n", n, program)
	p := triedProgram{program: program}
	text := head + sandbox + "read_only = [\n  './own.toml', # relative\n]\n"
	want := head + sandbox + fmt.Sprintf("# it looks for %s/one\nread_only = [\n  './own.toml', # relative\n  \"%s/one\",\n]\n", dir, dir)
	for run := range 2 {
		printed := p.tryWith(t, configureIn(t, dir, "kept", text), n)
		kept, remarks, _ := strings.Cut(printed, "\n# Not in it")
		if kept != want || strings.Count(remarks, "/run/x") == 0 || strings.Contains(remarks, "# Not in it") {
			t.Errorf("run %d: %s\nnot\n%s", run, printed, want)
		}
		text = printed
	}
}

// A wrong target is replaced by what the program binds.
func TestTryTarget(t *testing.T) {
	for _, way := range []string{"bind", "proxy"} {
		t.Run(way, func(t *testing.T) {
			dir := openFolder(t)
			const program = "from socket import *\ns = socket(); s.bind(('127.0.0.1', 9009)); s.listen(); print('bound and waiting', flush=True); s.accept()"
			const text = "[[socket]]\nlisten = [\"tcp://127.0.0.1:%d\"]\n%starget = \"tcp://%s\" # inside\n[service]\nhandover = %q\nexec = [\"python3\", \"-c\", %q]\n"
			n := ktest.Port(t)
			r := try(t, configureIn(t, dir, "wrong", fmt.Sprintf(text, n, "", ":80", way, program)))
			r.wait("bound and waiting")
			want := fmt.Sprintf(text, n, "# it binds tcp://127.0.0.1:9009, and not tcp://:80\n", "127.0.0.1:9009", way, program)
			if printed := r.finish(); printed != want {
				t.Errorf("%s\nnot\n%s", printed, want)
			}
		})
	}
}

// A program that runs and takes no client is given the socket for what it binds instead.
func TestTryDeaf(t *testing.T) {
	dir := openFolder(t)
	const program = "from socket import *\ns = socket(AF_UNIX); s.bind('/run/own'); s.listen(); s.accept()"
	r := try(t, configureIn(t, dir, "deaf", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/s\"]\n[service]\nexec = [\"python3\", \"-c\", %q]\n", dir, program)))
	r.wait("program binds unix:///run/own itself")
	if printed := r.finish(); !strings.Contains(printed, `target = "unix:///run/own"`) || !strings.Contains(printed, `handover = "bind"`) {
		t.Error(printed)
	}
}

// What cannot be tried is said before anything is bound.
func TestTryRefuses(t *testing.T) {
	dir := folder(t)
	for i := range 2 {
		configureIn(t, dir, fmt.Sprint("s", i), fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/%d\"]\n[service]\nexec = [\"/bin/true\"]\n", dir, i))
	}
	for _, test := range []struct {
		args []string
		says string
	}{
		{[]string{"try"}, "give one file"},
		{[]string{"try", "a.toml", "b.toml"}, "give one file"},
		{[]string{"try", dir}, "2 services: it is for one"},
		{[]string{"try", "../configs/echo-podman.toml"}, "container"},
		{[]string{"try", dir + "/none.toml"}, "no such file"},
	} {
		out, err := exec.Command(program(t, "activator"), test.args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), test.says) {
			t.Errorf("%q: %v, %s", test.args, err, out)
		}
	}
}
