package test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"activator/internal/ktest"
)

// example copies configs/NAME.toml, with pairs of what it says and what this test
// needs in its place, and returns the path of the copy.
func example(t *testing.T, name string, pairs ...string) string {
	t.Helper()
	raw, err := os.ReadFile("../configs/" + name + ".toml")
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("configs/%s.toml does not say %q", name, pairs[i])
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	return configureIn(t, openFolder(t), name, text)
}

// openFolder makes a folder that a service of whatever user may read.
func openFolder(t *testing.T) string {
	t.Helper()
	dir := folder(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// stateFolder is a name for state_directory that no other service has. What is in
// it is removed with the test.
func stateFolder(t *testing.T) string {
	t.Helper()
	if os.Getuid() == 0 {
		name := fmt.Sprintf("activator-test-%d", rand.Uint32())
		t.Cleanup(func() { _ = os.RemoveAll("/var/lib/" + name) })
		return name
	}
	t.Setenv("XDG_STATE_HOME", folder(t))
	return "activator-test"
}

func writeFile(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

// get fetches a page over a connection of its own.
func get(url string) (status int, body []byte, err error) {
	_, status, body, err = getFrom(url)
	return status, body, err
}

// getFrom also says what the client's own address was.
func getFrom(url string) (own string, status int, body []byte, err error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			own = c.LocalAddr().String()
		}
		return c, err
	}}
	answer, err := (&http.Client{Transport: transport, Timeout: waitTimeout}).Get(url)
	if err != nil {
		return own, 0, nil, err
	}
	defer answer.Body.Close()
	body, err = io.ReadAll(answer.Body)
	return own, answer.StatusCode, body, err
}

// nginxSite makes an nginx.conf whose pages tell which generation they are of.
func nginxSite(dir string, generation int) []byte {
	return fmt.Appendf(nil, `worker_processes 3;
error_log stderr notice;
pid /run/nginx.pid;
events {}
http {
	access_log off;
	server {
		listen 80;
		listen [::]:80;
		root %s/site;
		location = /me { return 200 "$remote_addr:$remote_port"; }
		location = /generation { return 200 "%d"; }
	}
}
`, dir, generation)
}

// nginx serves files of 1 MB from several workers, sees its clients, and is reloaded
// by SIGHUP, which no client notices.
func TestBindNginx(t *testing.T) {
	installed(t, "nginx")
	dir, n := openFolder(t), ktest.Port(t)
	if err := os.Mkdir(filepath.Join(dir, "site"), 0o755); err != nil {
		t.Fatal(err)
	}
	large := make([]byte, 1<<20)
	for i := range large {
		large[i] = byte(rand.Uint32())
	}
	writeFile(t, filepath.Join(dir, "site/large"), large)
	conf := filepath.Join(dir, "nginx.conf")
	writeFile(t, conf, nginxSite(dir, 1))
	a := activate(t, "--config", example(t, "nginx", "127.0.0.1:8080", fmt.Sprint("127.0.0.1:", n), "[::1]:8080", fmt.Sprint("[::1]:", n),
		`"/usr/sbin/nginx"`, `"/usr/sbin/nginx", "-c", "`+conf+`"`, `["/var/www/html"]`, `["`+dir+`"]`))
	four, six := fmt.Sprintf("http://127.0.0.1:%d", n), fmt.Sprintf("http://[::1]:%d", n)
	for _, url := range []string{four, six} {
		own, _, body, err := getFrom(url + "/me")
		if strings.NewReplacer("[", "", "]", "").Replace(own) != string(body) || err != nil {
			t.Errorf("%s: nginx sees %q, want %q: %v", url, body, own, err)
		}
	}
	want := sha256.Sum256(large)
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			for range 10 {
				status, body, err := get([]string{four, six}[i%2] + "/large")
				if sha256.Sum256(body) != want || status != 200 || err != nil {
					t.Errorf("status %d, %d bytes: %v", status, len(body), err)
				}
			}
		})
	}
	clients.Wait()
	reloadNginx(t, a, dir, four)
	killed(t, pidOf(t, a, 1))
	a.wait("state=resting")
	if status, _, err := get(six + "/large"); status != 200 || err != nil {
		t.Errorf("after a crash: status %d: %v", status, err)
	}
	pidOf(t, a, 2)
}

// reloadNginx reloads while clients ask without a pause.
func reloadNginx(t *testing.T, a *activator, dir, url string) {
	t.Helper()
	writeFile(t, filepath.Join(dir, "nginx.conf"), nginxSite(dir, 2))
	if err := syscall.Kill(pidOf(t, a, 1), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(waitTimeout)
	for asked := 0; ; asked++ {
		status, body, err := get(url + "/generation")
		if status != 200 || err != nil {
			t.Fatalf("during the reload, request %d: status %d: %v", asked, status, err)
		}
		if string(body) == "2" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nginx does not reload")
		}
	}
}

// redis speaks RESP over a connection.
type redis struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

func dialRedis(t testing.TB, network, addr string) *redis {
	t.Helper()
	c, err := net.DialTimeout(network, addr, waitTimeout)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(waitTimeout))
	return &redis{t, c, bufio.NewReader(c)}
}

func (r *redis) send(words ...string) {
	r.t.Helper()
	if _, err := r.Write([]byte(strings.Join(words, " ") + "\r\n")); err != nil {
		r.t.Fatal(err)
	}
}

// wants reads a line, and the string after it if it announces one.
func (r *redis) wants(want string) {
	r.t.Helper()
	line, err := r.r.ReadString('\n')
	if err == nil && strings.HasPrefix(line, "$") && line[1] != '-' {
		line, err = r.r.ReadString('\n')
	}
	if line = strings.TrimSpace(line); line != want || err != nil {
		r.t.Errorf("redis says %q, want %q: %v", line, want, err)
	}
}

// redis-server over TCP and a unix socket, with a pipeline, and what it saved is
// there after a restart.
func TestBindRedis(t *testing.T) {
	installed(t, "redis-server")
	addr, sock := fmt.Sprintf("127.0.0.1:%d", ktest.Port(t)), folder(t)+"/redis.sock"
	conf := example(t, "redis", `"tcp://127.0.0.1:6379"]`, `"tcp://`+addr+"\"]\ntarget = \"tcp://127.0.0.1:6379\"",
		"%t/activator-redis.sock", sock, `"activator-redis"`, `"`+stateFolder(t)+`"`)
	a := activate(t, "--config", conf)
	c := dialRedis(t, "tcp", addr)
	defer c.Close()
	c.send("SET", "who", "networkless")
	c.wants("+OK")
	u := dialRedis(t, "unix", sock)
	defer u.Close()
	u.send("GET", "who")
	u.wants("networkless")
	const many = 10000
	go func() {
		var all bytes.Buffer
		for i := range many {
			fmt.Fprintf(&all, "INCRBY n %d\r\n", i%3)
		}
		_, _ = u.Write(all.Bytes())
	}()
	sum := 0
	for i := range many {
		sum += i % 3
		u.wants(fmt.Sprint(":", sum))
	}
	c.send("SAVE")
	c.wants("+OK")
	killed(t, pidOf(t, a, 1))
	a.wait("state=resting")
	for run := 2; run <= 3; run++ { // after a crash, and after an end in good order
		c := dialRedis(t, []string{"unix", "tcp"}[run-2], []string{sock, addr}[run-2])
		c.send("GET", "who")
		c.wants("networkless")
		c.send("GET", "n")
		c.wants(fmt.Sprint(sum))
		c.send("SHUTDOWN")
		c.Close()
		a.waitN(run+1, "state=listening")
	}
}

func TestBindMemcached(t *testing.T) {
	installed(t, "memcached")
	n := ktest.Port(t)
	activate(t, "--config", example(t, "memcached", `listen = ["tcp://127.0.0.1:11211", "udp://127.0.0.1:11211"]`,
		fmt.Sprintf("listen = [\"tcp://127.0.0.1:%[1]d\"]\ntarget = \"tcp://127.0.0.1:11211\"\n[[socket]]\nlisten = [\"udp://127.0.0.1:%[1]d\"]\ntarget = \"udp://127.0.0.1:11211\"\n", n)))
	c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", n), waitTimeout)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(waitTimeout))
	r := bufio.NewReader(c)
	for i := range 100 {
		fmt.Fprintf(c, "set key%d 0 0 5\r\nvalue\r\n", i)
		if line, err := r.ReadString('\n'); line != "STORED\r\n" {
			t.Fatalf("memcached says %q: %v", line, err)
		}
	}
	u, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", n))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	for i := range 100 {
		if err := askMemcached(u, i); err != nil {
			t.Fatal(err)
		}
	}
}

// askMemcached asks for a key over UDP: eight bytes of a header go before, number
// of the question, and of its one datagram.
func askMemcached(u net.Conn, i int) error {
	_ = u.SetDeadline(time.Now().Add(waitTimeout))
	head := []byte{0, byte(i), 0, 0, 0, 1, 0, 0}
	if _, err := u.Write(fmt.Appendf(head, "get key%d\r\n", i)); err != nil {
		return err
	}
	got := make([]byte, 1500)
	n, err := u.Read(got)
	want := fmt.Sprintf("VALUE key%d 0 5\r\nvalue\r\nEND\r\n", i)
	if err == nil && (n < 8 || got[1] != byte(i) || string(got[8:n]) != want) {
		err = fmt.Errorf("memcached says %q, want %q", got[:n], want)
	}
	return err
}

// ownPage is a [sandbox] in which the folder at inside has a page of this test, and
// nothing of the distribution's.
func ownPage(t *testing.T, inside string) string {
	t.Helper()
	dir := openFolder(t)
	writeFile(t, filepath.Join(dir, "index.html"), []byte("a page of this test"))
	return fmt.Sprintf("[sandbox]\nread_only = [\"%s:%s\"]", dir, inside)
}

// Servers of pages that bind as they like: IPv4 at any address, both families, from
// a static program.
func TestBindServers(t *testing.T) {
	for _, tt := range []struct {
		program string
		conf    func(t *testing.T, n int) string
		url     string
		says    string
	}{
		{"python3", func(t *testing.T, n int) string {
			return example(t, "python-http", `"tcp://127.0.0.1:8000"`, fmt.Sprintf(`"tcp://127.0.0.1:%d"`, n),
				"/usr/share/doc", "/srv/doc", `handover = "bind"`, "handover = \"bind\"\n"+ownPage(t, "/srv/doc"))
		}, "http://127.0.0.1:%d/", "a page of this test"},
		{"node", func(t *testing.T, n int) string {
			return example(t, "node", "tcp://[::1]:3080", fmt.Sprintf("tcp://[::1]:%d", n))
		}, "http://[::1]:%d/", "hello ::1"},
		{"nginx", func(t *testing.T, n int) string { // as Debian configures it, whatever page another package put there
			site, err := os.ReadFile("/etc/nginx/sites-enabled/default")
			if err != nil || !strings.Contains(string(site), "root /var/www/html;") {
				ktest.Skip(t, "nginx is not configured as Debian does it: /etc/nginx/sites-enabled/default: %v", err)
			}
			return example(t, "nginx", "127.0.0.1:8080", fmt.Sprint("127.0.0.1:", n), "[::1]:8080", fmt.Sprint("[::1]:", n),
				"[sandbox]\nread_only = [\"/var/www/html\"]", ownPage(t, "/var/www/html"))
		}, "http://[::1]:%d/", "a page of this test"},
		{"busybox", func(t *testing.T, n int) string {
			dir := openFolder(t)
			writeFile(t, dir+"/index.html", []byte("static"))
			return configureIn(t, dir, "httpd", fmt.Sprintf("[[socket]]\nlisten = [\"tcp4://127.0.0.1:%d\"]\ntarget = \"tcp://:8000\"\n[service]\n"+
				"exec = [%q, \"httpd\", \"-f\", \"-p\", \"0.0.0.0:8000\", \"-h\", %q]\nhandover = \"bind\"\n[sandbox]\nread_only = [%q]\n", n, installed(t, "busybox"), dir, dir))
		}, "http://127.0.0.1:%d/index.html", "static"},
		{"caddy", func(t *testing.T, n int) string {
			return example(t, "caddy", `"tcp://127.0.0.1:8081"`, fmt.Sprintf(`"tcp://127.0.0.1:%d"`, n),
				"/usr/share/doc", "/srv/doc", "# where it keeps what it has seen", "\n"+ownPage(t, "/srv/doc"))
		}, "http://127.0.0.1:%d/", "a page of this test"},
		{"go", func(t *testing.T, n int) string {
			return configureIn(t, folder(t), "go", fmt.Sprintf("[[socket]]\nlisten = [\"tcp://:%d\"]\ntarget = \"tcp://:8000\"\n[service]\n"+
				"exec = [\"SELF\"]\nenvironment = [\"ACTIVATOR_TEST_SERVICE=http\"]\nhandover = \"bind\"\n", n))
		}, "http://127.0.0.1:%d/", "hello 127.0.0.1 from no environment"},
	} {
		t.Run(tt.program, func(t *testing.T) {
			if tt.program != "go" {
				installed(t, tt.program)
			}
			n := ktest.Port(t)
			a := activate(t, "--config", tt.conf(t, n))
			for range 20 {
				status, body, err := get(fmt.Sprintf(tt.url, n))
				if status != 200 || !strings.Contains(string(body), tt.says) || err != nil {
					t.Fatalf("status %d, want %q in %q: %v", status, tt.says, body, err)
				}
			}
			if n := a.log.count("state=running"); n != 1 {
				t.Errorf("%d runs", n)
			}
		})
	}
}
