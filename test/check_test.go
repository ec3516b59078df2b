package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"activator/internal/ktest"
)

// ends runs the activator to its end, and returns what it prints and its exit code.
func ends(t *testing.T, args ...string) (text string, code int) {
	t.Helper()
	cmd := exec.Command(program(t, "activator"), args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	hang := time.AfterFunc(waitTimeout, func() { _ = cmd.Process.Kill() })
	defer hang.Stop()
	_ = cmd.Wait() // the exit code is compared
	return out.String(), cmd.ProcessState.ExitCode()
}

// tree lists a folder with everything below it.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			all = append(all, fmt.Sprintf("%s %v %v", path, info.Mode(), info.ModTime()))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, "\n")
}

// What cannot work `check` and the start say in the same lines, all of it at once and
// with the same exit code; neither has made anything, nor bound the sockets that
// could have been. The text alone is sound.
func TestCheckAndTheRunAgree(t *testing.T) {
	for _, test := range []struct {
		name string
		text string // of the second service
		code int
		want []string
	}{
		{"configuration", `[[socket]]
listen = ["unix://DIR/made/b"]
[service]
exec = ["DIR/none"]
user = "no-such-user"
working_directory = "/nowhere"
[sandbox]
read_only = ["DIR/nothing"]
`, 2, []string{
			"DIR/b.toml:4:9: service.exec: DIR/none: no such file or directory\n    exec = [\"DIR/none\"]\n            ^\n    it does not exist on the host\n",
			"DIR/b.toml:5:8: service.user: no-such-user: no such user\n",
			"DIR/b.toml:6:21: service.working_directory: /nowhere: it is neither inside nor on the host\n",
			"DIR/b.toml:8:14: sandbox.read_only: DIR/nothing: no such file or directory\n",
		}},
		{"a file in the way", "[[socket]]\nlisten = [\"unix://DIR/made/b\",\n  \"unix://DIR/occupied\"]\n[service]\nexec = [\"ECHO\"]\n", 2, []string{
			"DIR/b.toml:3:3: socket.listen: unix://DIR/occupied: DIR/occupied: a regular file stands there and is not removed\n",
		}},
		{"both", "[[socket]]\nlisten = [\"unix://DIR/occupied\"]\n[service]\nexec = [\"DIR/none\"]\n", 2, []string{
			"DIR/b.toml:2:11: socket.listen: ", "DIR/b.toml:4:9: service.exec: ",
		}},
		{"a folder that goes", "[[socket]]\nlisten = [\"unix://%t/act-check/b\"]\n[service]\nexec = [\"ECHO\"]\nruntime_directory = \"act-check\"\n", 2, []string{
			"which is removed with everything in it when that ends\n",
		}},
		{"nowhere to report", "[[socket]]\nlisten = [\"unix://DIR/made/b\"]\n[service]\nexec = [\"ECHO\"]\nsyslog = true\nwatchdog = \"10s\"\n[sandbox]\nread_only = [\"/etc:/run\"]\n", 2, []string{
			"DIR/b.toml:5:10: service.syslog: /run/.log: read-only file system\n", "DIR/b.toml:6:12: service.watchdog: /run/.notify: read-only file system\n",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := folder(t)
			in := func(text string) string { return strings.ReplaceAll(text, "DIR", dir) }
			if err := os.WriteFile(dir+"/occupied", nil, 0o644); err != nil {
				t.Fatal(err)
			}
			configureIn(t, dir, "a", in("[[socket]]\nlisten = [\"unix://DIR/a\"]\n[service]\nexec = [\"ECHO\"]\n"))
			configureIn(t, dir, "b", in(test.text))
			before := tree(t, dir)
			said, code := ends(t, "check", "--config", dir)
			if code != test.code {
				t.Errorf("check ended with %d, want %d", code, test.code)
			}
			for _, want := range test.want {
				if !strings.Contains(said, in(want)) {
					t.Errorf("check said\n%s\nwithout\n%s", said, in(want))
				}
			}
			ran, code := ends(t, "--config", dir)
			if ran != said || code != test.code {
				t.Errorf("the run ended with %d and said\n%s\ncheck said\n%s", code, ran, said)
			}
			if after := tree(t, dir); after != before {
				t.Errorf("something has been changed:\n%s\nbefore\n%s", after, before)
			}
			if text, code := ends(t, "check", "--offline", "--config", dir); code != 0 || strings.Count(text, "good") != 2 || !strings.Contains(text, ": 1 socket, good\n") {
				t.Errorf("check --offline ended with %d:\n%s", code, text)
			}
		})
	}
}

// A reload that brings what cannot work is refused as a whole, in the same lines; what
// runs goes on. And check does not mind the activator that runs with the very
// configuration.
func TestReloadIsExamined(t *testing.T) {
	dir := folder(t)
	good := fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/a\", \"tcp4://127.0.0.1:%d\"]\n[service]\nexec = [\"ECHO\"]\n", dir, ktest.Port(t))
	path := configureIn(t, dir, "a", good)
	a := activate(t, "--config", dir)
	answered(t, "before", "unix:"+dir+"/a")
	if text, code := ends(t, "check", "--config", dir); code != 0 {
		t.Errorf("check beside the activator ended with %d:\n%s", code, text)
	}
	inode := inodeOf(t, dir+"/a")

	configureIn(t, dir, "b", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/b\"]\n[service]\nexec = [\"%s/none\"]\n", dir, dir))
	a.rewrite(path, good+"no_such_key = 1\n")
	a.wait("configuration error", "key=service.no_such_key")
	a.waitN(1, "not reloaded: everything stays as it is")
	a.rewrite(path, strings.Replace(good, "]\n[service]", fmt.Sprintf(", \"unix://%s/c\"]\n[service]", dir), 1))
	a.wait(`msg="configuration error" file=` + dir + `/b.toml line=4 column=9 key=service.exec text="` + dir + `/none: no such file or directory" cure="it does not exist on the host"`)
	if line := a.waitN(2, "not reloaded: everything stays as it is"); !strings.Contains(line, "errors=1") {
		t.Errorf("the last line: %s", line)
	}
	for _, name := range []string{"b", "c"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !os.IsNotExist(err) {
			t.Errorf("%s has been bound: %v", name, err)
		}
	}
	if inodeOf(t, dir+"/a") != inode {
		t.Error("a socket was bound anew")
	}
	answered(t, "after", "unix:"+dir+"/a")

	if err := os.Remove(filepath.Join(dir, "b.toml")); err != nil {
		t.Fatal(err)
	}
	if err := a.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	a.wait("configuration reloaded")
	answered(t, "reloaded", "unix:"+dir+"/c")
}

// Of the examples check says nothing but what is really missing on this machine.
func TestCheckOfTheExamples(t *testing.T) {
	files, err := filepath.Glob("../configs/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, file := range append(files, "../configs/php") {
		said, code := ends(t, "check", "--config", file)
		found := 0
		for line := range strings.Lines(said) {
			place, text, isFinding := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			if !isFinding || line[0] == ' ' || strings.HasSuffix(text, "good") {
				continue
			}
			if found++; !isMissing(text) {
				t.Errorf("%s: %s", place, text)
			}
		}
		if (found > 0) != (code != 0) || code > 2 {
			t.Errorf("%s: check ended with %d:\n%s", file, code, said)
		}
	}
}

// isMissing reports whether "KEY: WHAT: REASON" is so on this machine.
func isMissing(text string) bool {
	key, text, _ := strings.Cut(text, ": ")
	what, reason, _ := strings.Cut(text, ": ")
	_, err := os.Stat(what)
	switch {
	case key == "container.image", key == "container.engine":
		return true // test/podman_test.go tells
	case key == "service.user" && strings.HasPrefix(reason, "no such user"):
		_, err := user.Lookup(what)
		return err != nil
	case key == "service.user":
		return os.Geteuid() != 0
	case key == "socket.listen" && strings.HasSuffix(text, "permission denied"):
		return os.Geteuid() != 0
	case key == "socket.socket_user":
		return os.Geteuid() != 0 || strings.Contains(text, "unknown user")
	}
	return os.IsNotExist(err)
}

// More sockets than there can be descriptors.
func TestCheckWithFewDescriptors(t *testing.T) {
	dir := folder(t)
	var b strings.Builder
	for i := range 100 {
		fmt.Fprintf(&b, "[[socket]]\nlisten = [\"unix://%s/%d\"]\n", dir, i)
	}
	configureIn(t, dir, "many", b.String()+"[service]\nexec = [\"ECHO\"]\n")
	for _, args := range [][]string{{"check", "--config", dir}, {"--config", dir}} {
		cmd := exec.Command("sh", append([]string{"-c", `ulimit -n 90 && exec "$@"`, "sh", program(t, "activator")}, args...)...)
		out, _ := cmd.CombinedOutput() // the exit code is compared
		want := "this host: socket: the activator may have 90 descriptors open, and these services need 260\n    raise the limit nofile of the activator (ulimit -n, LimitNOFILE= of a unit)\n"
		if code := cmd.ProcessState.ExitCode(); string(out) != want || code != 1 {
			t.Errorf("%q ended with %d:\n%s", args, code, out)
		}
	}
}

// A host on which there can be no sandbox: that is said once, however many services
// there are, with the cure and as something that only the host can change.
func TestCheckWithoutNamespaces(t *testing.T) {
	dir := folder(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		configureIn(t, dir, name, fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/%s.sock\"]\n[service]\nexec = [\"ECHO\"]\n", dir, name))
	}
	if out, err := exec.Command("unshare", "--user", "--map-root-user", "true").CombinedOutput(); err != nil {
		ktest.Skip(t, "%v: %s", err, out)
	}
	for _, args := range [][]string{{"check", "--config", dir}, {"--config", dir}} {
		script := `echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"`
		cmd := exec.Command("unshare", append([]string{"--user", "--map-root-user", "sh", "-c", script, "sh", program(t, "activator")}, args...)...)
		out, _ := cmd.CombinedOutput() // the exit code is compared
		want := "this host: sandbox: clone: no space left on device\n    user namespaces are off here: sysctl -w user.max_user_namespaces=10000\n"
		if code := cmd.ProcessState.ExitCode(); string(out) != want || code != 1 {
			t.Errorf("%q ended with %d:\n%s", args, code, out)
		}
	}
}

// In JSON too each finding of a reload has a line, in the order of the file's, and the last line
// says what comes of them.
func TestReloadFindingsInJSON(t *testing.T) {
	dir := folder(t)
	good := fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/a\"]\n[service]\nexec = [\"ECHO\"]\n", dir)
	path := configureIn(t, dir, "a", good)
	a := activate(t, "--log-format", "json", "--config", path)
	a.rewrite(path, "[[socket]]\nlisen = [\"unix:///a\"]\n[service]\nwarm = 1\n")
	a.wait("not reloaded")
	var got []string
	for _, line := range a.log.all() {
		var one struct {
			Level, Msg, File, Key, Text, Cure string
			Line, Column, Errors              int
		}
		if err := json.Unmarshal([]byte(line), &one); err == nil && one.Level == "ERROR" {
			got = append(got, fmt.Sprintf("%+v", one))
		}
	}
	want := []string{
		"{Level:ERROR Msg:configuration error File:" + path + " Key:socket.lisen Text:unknown key Cure:did you mean \"listen\"? Line:2 Column:1 Errors:0}",
		"{Level:ERROR Msg:configuration error File:" + path + " Key:service.warm Text:is an integer Cure:want true or false Line:4 Column:8 Errors:0}",
		"{Level:ERROR Msg:configuration error File:" + path + " Key:service.exec Text:there is none, nor a [container] Cure:write exec = [\"PROGRAM\", \"ARGUMENT\"] below [service] Line:0 Column:0 Errors:0}",
		"{Level:ERROR Msg:configuration not reloaded: everything stays as it is File: Key: Text: Cure: Line:0 Column:0 Errors:3}",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	answered(t, "after it", "unix:"+dir+"/a")
}

// With a log in JSON the errors of a start are lines of it too, and nothing else is written.
func TestStartErrorsInJSON(t *testing.T) {
	dir := folder(t)
	live, err := net.Listen("unix", dir+"/live")
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	for _, test := range []struct {
		text string
		code int
		keys []string
		last string
	}{
		{"[[socket]]\nlisen = [\"unix:///a\"]\n[service]\nwarm = 1\n", 2, []string{"socket.lisen", "service.warm", "service.exec"}, "activator not started"},
		{"[[socket]]\nlisten = [\"unix://DIR/a\"]\n[service]\nexec = [\"DIR/none\"]\n", 2, []string{"service.exec"}, "activator not started"},
		{"[[socket]]\nlisten = [\"unix://DIR/live\"]\n[service]\nexec = [\"ECHO\"]\n", 1, []string{"socket.listen"}, "activator not started"},
	} {
		said, code := ends(t, "--log-format", "json", "--config", configureIn(t, dir, "a", strings.ReplaceAll(test.text, "DIR", dir)))
		var keys []string
		last := ""
		for line := range strings.Lines(said) {
			var one struct{ Level, Msg, Key string }
			if err := json.Unmarshal([]byte(line), &one); err != nil || one.Level != "ERROR" {
				t.Errorf("%v: %q", err, line)
			}
			if one.Key != "" {
				keys = append(keys, one.Key)
			}
			last = one.Msg
		}
		if code != test.code || !slices.Equal(keys, test.keys) || last != test.last {
			t.Errorf("it ended with %d and said\n%s\nwant %d, %q and %q", code, said, test.code, test.keys, test.last)
		}
	}
}

// An absolute path of a configuration needs no current folder. A relative one has none to be in.
func TestCurrentFolderGone(t *testing.T) {
	dir := folder(t)
	path := configureIn(t, dir, "a", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/a\"]\n[service]\nexec = [\"ECHO\"]\n", dir))
	for file, want := range map[string]string{path: ": 1 socket, good\n", "a.toml": "a.toml: stat: no such file or directory\n"} {
		cmd := exec.Command("sh", "-c", `mkdir "$1/gone" && cd "$1/gone" && rmdir "$1/gone" && exec "$2" check --config "$3"`, "sh", dir, program(t, "activator"), file)
		out, _ := cmd.CombinedOutput() // what it says is compared
		if !strings.HasSuffix(string(out), want) {
			t.Errorf("%s: said %q, want %q", file, out, want)
		}
	}
}

// A datagram socket in a mounted folder is a way out that connect does not close: check -v names it, and
// nothing where connect says that it is open.
func TestCheckNamesMountedSocket(t *testing.T) {
	dir := folder(t)
	mounted, err := net.ListenPacket("unixgram", dir+"/mounted")
	if err != nil {
		t.Fatal(err)
	}
	defer mounted.Close()
	for connect, want := range map[string]bool{"none": true, "unix": false} {
		for _, mount := range []string{"read_only", "writable"} {
			path := configureIn(t, dir, "a", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/a\"]\n[service]\nexec = [\"ECHO\"]\n[sandbox]\nconnect = %q\n%s = [%q]\n", dir, connect, mount, dir+":/srv"))
			said, code := ends(t, "check", "-v", "--config", path)
			if code != 0 || strings.Contains(said, "as to "+dir+"/mounted: no filter sees their path\n") != want {
				t.Errorf("connect %s, %s: check -v ended with %d and said\n%s", connect, mount, code, said)
			}
		}
	}
}

// An address that another program has is refused with its place, its holder and the exit code of
// what only the host can change.
func TestTakenAddressHasItsPlace(t *testing.T) {
	dir := folder(t)
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	path := configureIn(t, dir, "a", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/a\",\n  \"tcp4://%s\"]\n[service]\nexec = [\"ECHO\"]\n", dir, taken.Addr()))
	said, code := ends(t, "--config", path)
	want := fmt.Sprintf("%s:3:3: socket.listen: tcp://%s: bind: address already in use\n      \"tcp4://%s\"]\n      ^\n    held by ", path, taken.Addr(), taken.Addr())
	if code != 1 || !strings.HasPrefix(said, want) || !strings.Contains(said, fmt.Sprint(os.Getpid())) {
		t.Errorf("it ended with %d and said\n%s\nwant\n%s", code, said, want)
	}
}
