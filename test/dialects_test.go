package test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
			n := port(t)
			a := activate(t, "--config", exampleIn(t, folder(t), tt.name,
				fmt.Sprint(":", tt.port), fmt.Sprint(":", n), "/usr/bin/"+tt.program, path, "/usr/sbin/"+tt.program, path))
			want := strings.TrimSuffix(tt.name, "-fds") + "\n"
			for i := range 6 {
				url := fmt.Sprintf("http://%s:%d/", tt.hosts[i%len(tt.hosts)], n)
				if got := command(t, "", "curl", "--silent", "--show-error", "--max-time", "30", url); got != want {
					t.Errorf("curl %s printed %q, want %q", url, got, want)
				}
			}
			pidOf(t, a, 1) // of one run
			a.stop()
		})
	}
}

// php-fpm over the unix socket that a web server would use.
func TestDialectPHP(t *testing.T) {
	found, err := filepath.Glob("/usr/sbin/php-fpm[0-9]*")
	if err != nil || len(found) == 0 {
		ktest.Skip(t, "no php-fpm: install it")
	}
	dir := folder(t)
	a := activate(t, "--config", exampleIn(t, dir, "php-fpm", "/usr/sbin/php-fpm8.2", found[0], "%t/activator-php", dir))
	for i := range 3 {
		got, err := fastCGI(filepath.Join(dir, "fpm.sock"), map[string]string{
			"SCRIPT_FILENAME": "/srv/www/index.php", "SCRIPT_NAME": "/index.php", "REQUEST_METHOD": "GET",
			"QUERY_STRING": fmt.Sprint("q=", i), "SERVER_PROTOCOL": "HTTP/1.1",
		})
		if _, body, _ := strings.Cut(got, "\r\n\r\n"); err != nil || body != fmt.Sprintf("php %d\n", i) {
			t.Errorf("php-fpm answered %q, %v", got, err)
		}
	}
	pidOf(t, a, 1)
	a.stop()
}

// fastCGI makes one request and returns what the responder printed,
// fastcgi-archives.github.io/FastCGI_Specification.html.
func fastCGI(path string, params map[string]string) (string, error) {
	const begin, end, paramsType, stdin, stdout, stderr = 1, 3, 4, 5, 6, 7
	record := func(kind byte, content []byte) []byte {
		head := []byte{1, kind, 0, 1, 0, 0, 0, 0}
		binary.BigEndian.PutUint16(head[4:], uint16(len(content)))
		return append(head, content...)
	}
	var pairs []byte
	for name, value := range params { // both shorter than 128
		pairs = append(append(append(pairs, byte(len(name)), byte(len(value))), name...), value...)
	}
	var request []byte
	for _, r := range [][]byte{record(begin, []byte{0, 1, 0, 0, 0, 0, 0, 0}), record(paramsType, pairs), record(paramsType, nil), record(stdin, nil)} {
		request = append(request, r...)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := c.Write(request); err != nil {
		return "", err
	}
	var printed []byte
	for {
		head := make([]byte, 8)
		if _, err := io.ReadFull(c, head); err != nil {
			return string(printed), err
		}
		body := make([]byte, int(binary.BigEndian.Uint16(head[4:]))+int(head[6]))
		if _, err := io.ReadFull(c, body); err != nil {
			return string(printed), err
		}
		switch head[1] {
		case stdout, stderr:
			printed = append(printed, body[:len(body)-int(head[6])]...)
		case end:
			return string(printed), nil
		}
	}
}
