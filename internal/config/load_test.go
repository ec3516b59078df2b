package config

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2/unstable"

	"activator/internal/ktest"
	"activator/internal/spec"
)

const stringKind = unstable.String

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func echoAt(address string) string {
	return "[[socket]]\nlisten = [\"" + address + "\"]\n[service]\nexec = [\"./echo\"]\n"
}

func TestExamples(t *testing.T) {
	env := HostEnv()
	if env.Runtime == "" {
		env.Runtime = "/run/user/1"
	}
	files, err := filepath.Glob("../../configs/*.toml")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	for _, file := range files {
		services, err := Load([]string{file}, env)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		if exec := services[0].Service.Argv; len(exec) > 0 && !filepath.IsAbs(exec[0]) {
			t.Errorf("%s: exec %q", file, exec)
		}
	}
}

// The how-to's file, whole.
func TestEcho(t *testing.T) {
	text, err := os.ReadFile("../../configs/echo.toml")
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseText("configs/echo.toml", text, somewhere)
	if err != nil {
		t.Fatal(err)
	}
	want := spec.Service{
		File: "/etc/activator/configs/echo.toml",
		Process: spec.Process{Name: "echo", Argv: []string{"/etc/activator/bin/echo"}, Dir: "/", Umask: 0o022,
			FDNames: []string{"echo", "echo", "echo", "echo", "echo"},
			Sandbox: spec.Sandbox{Network: "none", Connect: "none", Syscalls: "default", Seal: true}},
		Timeouts: spec.Timeouts{StartTimeout: 30 * time.Second, StopTimeout: 10 * time.Second,
			RestartDelay: 100 * time.Millisecond, RestartMaxDelay: 30 * time.Second, Hold: 10 * time.Second},
		Handover: "fds", SilentTimeout: time.Minute, Seal: "required", StopSignal: 15, Warm: true, Stdout: "log", Stderr: "log",
	}
	for _, s := range []string{"tcp://127.0.0.1:3000", "udp://127.0.0.1:3000", "tcp://[::1]:3000", "udp://[::1]:3000", "unix:///home/ann/echo_stream_sock"} {
		a, err := spec.ParseAddress(s)
		if err != nil {
			t.Fatal(err)
		}
		o := spec.Options{Timestamping: "off"}
		if a.IsUnix() {
			o = spec.Options{SocketMode: 0o666, SocketModeSet: true, DirectoryMode: 0o755, RefuseRights: true}
		}
		want.Sockets = append(want.Sockets, spec.Socket{Address: a, Name: "echo", Options: o})
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

// A client may pass descriptors in where the configuration says so, or where
// nothing is sealed.
func TestPassRights(t *testing.T) {
	for _, tt := range []struct {
		socket, rest string
		refused      bool
	}{
		{"", "", true},
		{"", "[sandbox]\nseal = \"best-effort\"", true},
		{"", "[sandbox]\nseal = \"off\"", false},
		{"", "[sandbox]\nnetwork = \"host\"", false},
		{"pass_rights = true", "", false},
		{"pass_rights = false", "[sandbox]\nseal = \"off\"", true},
	} {
		text := "[[socket]]\nlisten = [\"unix:///run/x\", \"tcp://:80\"]\n" + tt.socket + "\n[service]\nexec = [\"/bin/true\"]\n" + tt.rest
		s, err := parseText("x.toml", []byte(text), somewhere)
		if err != nil {
			t.Errorf("%s %s: %v", tt.socket, tt.rest, err)
			continue
		}
		if got := s.Sockets[0].Options.RefuseRights; got != tt.refused {
			t.Errorf("%s %s: refused %v, want %v", tt.socket, tt.rest, got, tt.refused)
		}
		if s.Sockets[1].Options.RefuseRights {
			t.Errorf("%s %s: refused of TCP", tt.socket, tt.rest)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	a := write(t, dir, "a.toml", echoAt("tcp://:81"))
	write(t, dir, "b.toml", echoAt("unix://./b"))
	write(t, dir, ".hidden.toml", "?")
	write(t, dir, "other.conf", "?")
	write(t, dir, "sub.toml/c.toml", echoAt("tcp://:82"))
	if err := os.Symlink(a, filepath.Join(dir, "sub.toml", "a.toml")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		paths []string
		want  string
	}{
		{[]string{a}, "a"},
		{[]string{dir}, "a b"},
		{[]string{a, dir, dir + "/./b.toml", dir}, "a b"},
		{[]string{dir + "/sub.toml", dir}, "a c b"},
		{nil, ""},
	} {
		services, err := Load(tt.paths, somewhere)
		if err != nil {
			t.Errorf("%q: %v", tt.paths, err)
			continue
		}
		var names []string
		for _, s := range services {
			names = append(names, s.Service.Name)
		}
		if got := strings.Join(names, " "); got != tt.want {
			t.Errorf("%q: %s, want %s", tt.paths, got, tt.want)
		}
	}
	services, err := Load([]string{dir + "/b.toml"}, somewhere)
	if err != nil || services[0].Service.Sockets[0].Address.Path != dir+"/b" || services[0].Service.Argv[0] != dir+"/echo" {
		t.Errorf("relative paths: %+v, %v", services, err)
	}
}

// A byte order mark is as if it were not there.
func TestByteOrderMark(t *testing.T) {
	plain, err := parseText("a.toml", []byte(echoAt("tcp://:81")), somewhere)
	if err != nil {
		t.Fatal(err)
	}
	marked, err := parseText("a.toml", []byte("\ufeff"+echoAt("tcp://:81")), somewhere)
	if err != nil || !reflect.DeepEqual(plain, marked) {
		t.Errorf("%+v, %v", marked, err)
	}
}

func TestLoadWrong(t *testing.T) {
	dir := t.TempDir()
	one := write(t, dir, "1/one.toml", echoAt("tcp://:81"))
	two := write(t, dir, "2/two.toml", echoAt("tcp://127.0.0.1:81")+"foo = 1\n")
	again := write(t, dir, "2/one.toml", echoAt("unix:///run/x"))
	large := write(t, dir, "large.toml", strings.Repeat("#\n", maxFile))
	if err := os.Mkdir(dir+"/empty", 0o755); err != nil {
		t.Fatal(err)
	}
	// One that nobody writes into and one that somebody holds open: neither hangs.
	for _, name := range []string{"fifo/a.toml", "held/b.toml"} {
		if err := os.Mkdir(filepath.Dir(dir+"/"+name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mkfifo(dir+"/"+name, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	held, err := os.OpenFile(dir+"/held/b.toml", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	for _, tt := range []struct {
		paths []string
		want  []string
	}{
		{[]string{dir + "/fifo"}, []string{dir + "/fifo/a.toml: is no file"}},
		{[]string{dir + "/held", one}, []string{dir + "/held/b.toml: is no file"}},
		{[]string{dir + "/fifo/a.toml"}, []string{dir + "/fifo/a.toml: is a pipe into which nobody has written\n    start its writer first"}},
		{[]string{"/dev/null"}, []string{"/dev/null: is no file"}},
		{[]string{dir + "/missing.toml"}, []string{"missing.toml: stat: no such file or directory"}},
		{[]string{dir + "/empty"}, []string{"empty: there is no *.toml"}},
		{[]string{large}, []string{"1 MiB"}},
		{[]string{one, two}, []string{two + ":2:11: socket.listen: tcp://127.0.0.1:81 overlaps with tcp://:81, at " + one + ":2:11", two + ":5:1: service.foo: unknown key"}},
		{[]string{one, again}, []string{again + ": a second service called one: the first is " + one}},
		{[]string{one, two, again, dir + "/missing.toml"}, []string{"second service", "overlaps", "no such file", "unknown key"}},
	} {
		_, err := Load(tt.paths, somewhere)
		var list Errors
		if !errors.As(err, &list) || len(list) != len(tt.want) {
			t.Errorf("%q: want %d errors: %v", tt.paths, len(tt.want), err)
			continue
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: want %q in\n%v", tt.paths, want, err)
			}
		}
		var one *Error
		if !errors.As(err, &one) || one != list[0] {
			t.Errorf("errors.As found %v", one)
		}
	}
}

// A pipe is read to its end at the start, and no other time.
func TestLoadPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "web.toml")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	keep, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer keep.Close()
	if err := os.WriteFile(path, []byte(echoAt("tcp://:81")), 0); err != nil {
		t.Fatal(err)
	}
	sources, err := LoadAgain([]string{path}, somewhere)
	if err == nil || err.Error() != path+": is a pipe, which cannot be read again\n    write the configuration into a file: a pipe is read at the start alone\n" {
		t.Errorf("again: %v, %v", sources, err)
	}
	sources, err = Load([]string{path}, somewhere)
	if err != nil || len(sources) != 1 || sources[0].Service.Name != "web" {
		t.Errorf("%v, %v", sources, err)
	}
}

// Where two addresses are said to overlap the kernel agrees, and where it could
// bind both nothing is said.
func TestOverlapAsTheKernel(t *testing.T) {
	addresses := []string{"tcp://:%d", "tcp4://:%d", "tcp6://:%d", "tcp://127.0.0.1:%d", "tcp://127.0.0.2:%d", "tcp://[::1]:%d",
		"udp://:%d", "udp4://:%d", "udp6://:%d", "udp://127.0.0.1:%d", "udp://[::1]:%d"}
	port := strconv.Itoa(ktest.Port(t))
	for i, a := range addresses {
		addresses[i] = strings.ReplaceAll(a, "%d", port)
	}
	for _, options := range []spec.Options{{}, {ReusePort: true}, {BindIPv6Only: "ipv6-only"}} {
		for i, first := range addresses {
			for _, second := range addresses[i:] {
				if first[:3] == second[:3] {
					compareWithKernel(t, first, second, options)
				}
			}
		}
	}
}

func compareWithKernel(t *testing.T, first, second string, o spec.Options) {
	t.Helper()
	var addresses [2]spec.Address
	var failed error
	for i, s := range []string{first, second} {
		var err error
		if addresses[i], err = spec.ParseAddress(s); err != nil {
			t.Fatal(err)
		}
		socket, err := bind(addresses[i], o)
		if err == nil {
			defer func() { _ = socket.Close() }()
		} else if i == 0 {
			ktest.Skip(t, "%v", err)
		}
		failed = err
	}
	why := explainOverlap(addresses[1], &o, addresses[0], &o)
	if want := failed != nil || first == second; (why != "") != want {
		t.Errorf("%s and %s, %+v: said %q, but the kernel says %v", first, second, o, why, failed)
	}
}

// bind opens a the way package listen does, but does not wait for a predecessor
// to go.
func bind(a spec.Address, o spec.Options) (io.Closer, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		const soReusePort = 15
		return c.Control(func(fd uintptr) {
			if o.ReusePort {
				_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, soReusePort, 1)
			}
		})
	}}
	config.SetMultipathTCP(false)
	network, rest, _ := strings.Cut(a.String(), "://")
	if o.BindIPv6Only == "ipv6-only" && !a.IP.IsValid() && isIPv6(a) {
		network = network[:3] + "6"
	}
	if a.IsUDP() {
		return config.ListenPacket(context.Background(), network, rest)
	}
	return config.Listen(context.Background(), network, rest)
}

func BenchmarkLoad1000(b *testing.B) {
	dir := b.TempDir()
	for i := range 1000 {
		text := fmt.Sprintf("[[socket]]\nlisten = [\"tcp://127.0.0.1:%[1]d\", \"udp://127.0.0.1:%[1]d\", \"tcp://[::1]:%[1]d\", \"udp://[::1]:%[1]d\", \"unix:///run/%[1]d\"]\n[service]\nexec = [\"/bin/true\"]\n", i+1)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("s%d.toml", i)), []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if _, err := Load([]string{dir}, somewhere); err != nil {
			b.Fatal(err)
		}
	}
}
