package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/config"
	"activator/internal/process"
	"activator/internal/spec"
)

// bench is a folder in which a test puts what a configuration names.
type bench struct {
	t   *testing.T
	dir string
}

func newBench(t *testing.T) bench {
	// Not below a folder that only the user who runs the tests may search.
	dir, err := os.MkdirTemp("/tmp", "examine")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return bench{t, dir}
}

func (b bench) write(name, text string, mode os.FileMode) {
	b.t.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		b.t.Fatal(err)
	}
}

// noAbilities are those of a machine without programs for sockets.
type noAbilities struct{}

func (noAbilities) Answering() bool { return false }
func (noAbilities) Accepting() bool { return false }

// examine returns what is found in a configuration, in which DIR is the folder.
func (b bench) examine(text string) config.Errors {
	b.t.Helper()
	b.write("web.toml", strings.ReplaceAll(text, "DIR", b.dir), 0o644)
	sources, err := config.Load([]string{filepath.Join(b.dir, "web.toml")}, config.HostEnv())
	if err != nil {
		b.t.Fatal(err)
	}
	starter, err := process.NewStarter()
	if err != nil {
		b.t.Fatal(err)
	}
	defer starter.Close()
	_, err = newExamination(starter, noAbilities{}, nil).planServices(context.Background(), sources, sources)
	var found config.Errors
	if err != nil && !errors.As(err, &found) {
		b.t.Fatal(err)
	}
	return found
}

const (
	anySocket = "[[socket]]\nlisten = [\"unix://DIR/s\"]\n[service]\n"
	noBinary  = "exec = [\"/bin/true\"]\n"
)

// proxied is a service behind a proxy, whose program listens at a path.
func proxied(path string) string {
	return "[[socket]]\nlisten = [\"unix://DIR/s\"]\ntarget = \"unix://" + path + "\"\n[service]\nhandover = \"proxy\"\n"
}

// Every finding stands at the key that asks for it, with its words. What ought to work
// has none.
func TestExamine(t *testing.T) {
	root := os.Geteuid() == 0
	for _, test := range []struct {
		name string
		text string
		want string // "LINE:COLUMN: KEY: TEXT", of each; "": none
		user string // instead, as an ordinary user
		only func() bool
	}{
		{"sound", anySocket + noBinary, "", "", nil},
		{"no program", anySocket + `exec = ["DIR/none"]`, "4:9: service.exec: DIR/none: no such file or directory", "", nil},
		{"a folder", anySocket + `exec = ["DIR/folder"]`, "4:9: service.exec: DIR/folder: permission denied", "", nil},
		{"not executable", anySocket + `exec = ["DIR/plain"]`, "4:9: service.exec: DIR/plain: permission denied", "", nil},
		{"not a program", anySocket + `exec = ["DIR/text"]`, "4:9: service.exec: DIR/text: exec format error: neither a program for this machine nor a script that starts with #!", "", onlyOurFormats},
		{"an empty file", anySocket + `exec = ["DIR/empty"]`, "4:9: service.exec: DIR/empty: exec format error: neither a program", "", onlyOurFormats},
		{"a byte order mark", anySocket + `exec = ["DIR/marked"]`, "4:9: service.exec: DIR/marked: exec format error: neither a program", "", onlyOurFormats},
		{"another machine's", anySocket + `exec = ["DIR/alien"]`, "4:9: service.exec: DIR/alien: exec format error: neither a program", "", onlyOurFormats},
		{"an object file's like", anySocket + `exec = ["DIR/small-elf"]`, "", "", nil},
		{"no interpreter", anySocket + `exec = ["DIR/script"]`, "4:9: service.exec: DIR/script: its interpreter DIR/none does not exist on the host", "", nil},
		{"relative interpreter", anySocket + `exec = ["DIR/relative"]`, "4:9: service.exec: DIR/relative: its interpreter ./shell counts from the working directory, and /shell is not there inside", "", nil},
		{"relative interpreter, there", anySocket + "exec = [\"DIR/relative\"]\nworking_directory = \"DIR\"\n[sandbox]\nread_only = [\"DIR\"]", "", "", nil},
		{"Windows line ends", anySocket + `exec = ["DIR/windows"]`, "4:9: service.exec: DIR/windows: its interpreter \"/bin/sh\\r\" is not there: the file has Windows line ends", "", nil},
		{"Windows line ends, env", anySocket + `exec = ["DIR/windows-env"]`, "4:9: service.exec: DIR/windows-env: its interpreter \"sh\\r\" is not found: the file has Windows line ends", "", nil},
		{"interpreter not inside", anySocket + `exec = ["DIR/script-own"]`, "4:9: service.exec: DIR/script-own: its interpreter DIR/shell is not there inside", "", nil},
		{"interpreter mounted", anySocket + "exec = [\"DIR/script-own\"]\n[sandbox]\nread_only = [\"DIR/shell\"]", "", "", nil},
		{"interpreter's interpreter", anySocket + "exec = [\"DIR/nested\"]\n[sandbox]\nread_only = [\"DIR/script\"]", "4:9: service.exec: DIR/script: its interpreter DIR/none does not exist on the host", "", nil},
		{"env", anySocket + `exec = ["DIR/env"]`, "", "", nil},
		{"env, nothing found", anySocket + `exec = ["DIR/env-none"]`, "4:9: service.exec: DIR/env-none: its interpreter no-such-program is not found in PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "", nil},
		{"env with options", anySocket + `exec = ["DIR/env-options"]`, "4:9: service.exec: DIR/env-options: env gets one argument, \"-i no-such-program\"", "", nil},
		{"env with two words", anySocket + `exec = ["DIR/env-words"]`, "4:9: service.exec: DIR/env-words: env gets one argument, \"sh -e\", and finds nothing of that name", "", nil},
		{"env that splits", anySocket + `exec = ["DIR/env-split"]`, "", "", nil},
		{"env that splits, nothing found", anySocket + `exec = ["DIR/env-split-none"]`, "4:9: service.exec: DIR/env-split-none: its interpreter no-such-program is not found in PATH=/bin:/usr/bin, neither inside nor on the host", "", nil},
		{"found in PATH", anySocket + `exec = ["true"]`, "", "", nil},
		{"not found in PATH", anySocket + `exec = ["no-such-program"]`, "4:9: service.exec: no-such-program: not found in PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "", nil},
		{"in a PATH of its own", anySocket + "exec = [\"mine\"]\nenvironment = { PATH = \"DIR/bin\" }\n[sandbox]\nread_only = [\"DIR/bin\"]", "", "", nil},
		{"PATH not mounted", anySocket + "exec = [\"mine\"]\nenvironment = { PATH = \"DIR/bin\" }", "4:9: service.exec: mine: not found inside in PATH=DIR/bin", "", nil},
		{"a script to execute only", anySocket + `exec = ["DIR/execute-only"]`, "4:9: service.exec: DIR/execute-only: a script, which the service's user may execute but its interpreter could not read", "-", nil},
		{"a program to execute only", anySocket + `exec = ["DIR/binary-execute-only"]`, "", "", nil},
		{"beside the file", anySocket + `exec = ["./bin/mine"]`, "", "", nil},
		{"in a fresh folder", anySocket + `exec = ["DIR/bin/mine"]` + "\n[sandbox]\ntmpfs = [\"DIR/bin\"]", "4:9: service.exec: DIR/bin/mine: not there inside", "", nil},
		{"a root", anySocket + "exec = [\"/bin/mine\"]\n[sandbox]\nroot = \"DIR\"", "4:9: service.exec: /bin/mine: its interpreter /bin/sh is not there inside", "", nil},
		{"no root", anySocket + "exec = [\"/bin/mine\"]\n[sandbox]\nroot = \"DIR/none\"", "6:8: sandbox.root: DIR/none: no such file or directory", "", nil},

		{"no source", anySocket + noBinary + "[sandbox]\nread_only = [\"/usr\", \"DIR/none:/x\"]", "6:22: sandbox.read_only: DIR/none: no such file or directory", "", nil},
		{"file on folder", anySocket + noBinary + "[sandbox]\nread_only = [\"DIR/plain:/usr/lib\"]", "6:14: sandbox.read_only: /usr/lib: invalid argument", "", nil},
		{"folder on file", anySocket + noBinary + "[sandbox]\nwritable = [\"DIR/folder:/etc/passwd\"]", "6:13: sandbox.writable: /etc/passwd: invalid argument", "", nil},
		{"file on file", anySocket + noBinary + "[sandbox]\nread_only = [\"DIR/plain:/etc/passwd\"]", "", "", nil},
		{"no mount point", anySocket + noBinary + "[sandbox]\ntmpfs = [\"/usr/no-such-folder\"]", "6:10: sandbox.tmpfs: /usr/no-such-folder: no such file or directory", "", nil},
		{"mount point made", anySocket + noBinary + "[sandbox]\nread_only = [\"DIR/plain:/srv/deep/down/plain\"]", "", "", nil},
		{"mount in a mount", anySocket + noBinary + "[sandbox]\nread_only = [\"DIR/folder:/srv/f\"]\ntmpfs = [\"/srv/f/none\"]", "7:10: sandbox.tmpfs: /srv/f/none: no such file or directory", "", nil},

		{"working directory", anySocket + noBinary + "working_directory = \"/usr/lib\"", "", "", nil},
		{"no working directory", anySocket + noBinary + "working_directory = \"/nowhere\"", "5:21: service.working_directory: /nowhere: it is neither inside nor on the host", "", nil},
		{"a file for it", anySocket + noBinary + "working_directory = \"/etc/passwd\"", "5:21: service.working_directory: /etc/passwd: it is not a folder, or something on its path is none", "", nil},
		{"no working directory on the host", anySocket + noBinary + "working_directory = \"/usr/no-such\"", "5:21: service.working_directory: /usr/no-such: it is neither inside nor on the host", "", nil},
		{"one that is root's", anySocket + noBinary + "working_directory = \"DIR/mine-only\"\n[sandbox]\nread_only = [\"DIR/mine-only\"]",
			"5:21: service.working_directory: DIR/mine-only: it is there, but the service's user may not enter it", "-", nil},
		{"one of its own", anySocket + noBinary + "runtime_directory = \"examine-web\"\nworking_directory = \"%t/examine-web\"", "", "", nil},

		{"no user", anySocket + noBinary + "user = \"no-such-user\"", "5:8: service.user: no-such-user: no such user", "", nil},
		{"no group", anySocket + noBinary + "group = \"no-such-group\"", "5:9: service.group: no-such-group: no such group", "", nil},
		{"another user", anySocket + noBinary + "user = \"daemon\"", "", "5:8: service.user: daemon: only root starts services as another user", nil},
		{"a limit", anySocket + noBinary + "limits = { nproc = 1, nofile = 2000000000 }", "5:32: service.limits: nofile: the hard limit here is ", "", cannotRaise},
		{"few descriptors", anySocket + noBinary + "limits = { nofile = 3 }", "5:21: service.limits: nofile: 3 is less than the 4 descriptors that the program starts with: 3 and its sockets", "", nil},
		{"enough descriptors", anySocket + noBinary + "limits = { nofile = 4 }", "", "", nil},
		{"few descriptors, a hard limit", anySocket + noBinary + "limits = { nofile = \"3:1024\" }", "5:21: service.limits: nofile: 3 is less than", "", nil},
		{"few descriptors, all inherited by name", anySocket + noBinary + "handover = \"stdio\"\naccept = true\nlimits = { nofile = 3 }", "", "", nil},
		{"stdout", anySocket + noBinary + "stdout = \"DIR/none/out\"\nstderr = \"DIR/folder\"",
			"5:10: service.stdout: DIR/none/out: no such file or directory\n6:10: service.stderr: DIR/folder: is a directory", "", nil},
		{"no network namespace", anySocket + noBinary + "[sandbox]\nnetwork = \"netns:no-such\"", "6:11: sandbox.network: /run/netns/no-such: no such network namespace", "", nil},
		{"not one", anySocket + noBinary + "[sandbox]\nnetwork = \"DIR/plain\"", "6:11: sandbox.network: DIR/plain: invalid argument", "", nil},

		{"something stands there", "[[socket]]\nlisten = [\"unix://DIR/plain\"]\n[service]\n" + noBinary, "2:11: socket.listen: unix://DIR/plain: DIR/plain: a regular file stands there and is not removed", "", nil},
		{"somebody lives there", "[[socket]]\nlisten = [\"unix://DIR/live\"]\n[service]\n" + noBinary, "2:11: socket.listen: unix://DIR/live: DIR/live: a live socket of ourselves, pid ", "", nil},
		{"a socket that nobody has", "[[socket]]\nlisten = [\"unix://DIR/stale\"]\n[service]\n" + noBinary, "", "", nil},
		{"a folder in a file", "[[socket]]\nlisten = [\"unix://DIR/plain/s\"]\n[service]\n" + noBinary, "2:11: socket.listen: unix://DIR/plain/s: make DIR/plain/s: not a directory", "", nil},
		{"in /proc", "[[socket]]\nlisten = [\"unix:///proc/foo/s\"]\n[service]\n" + noBinary, "2:11: socket.listen: unix:///proc/foo/s: make /proc/foo/s: operation not permitted",
			"2:11: socket.listen: unix:///proc/foo/s: make /proc/foo/s: permission denied", nil},
		{"in /sys", "[[socket]]\nlisten = [\"unix:///sys/s\"]\n[service]\n" + noBinary, "2:11: socket.listen: unix:///sys/s: make /sys/s: ", "", nil},
		{"nobody to give it to", "[[socket]]\nlisten = [\"unix://DIR/s\"]\nsocket_user = \"no-such\"\nsocket_group = \"no-such\"\n[service]\n" + noBinary,
			"3:15: socket.socket_user: user: unknown user no-such\n4:16: socket.socket_group: group: unknown group no-such", "", nil},
		{"not to be given", "[[socket]]\nlisten = [\"unix://DIR/s\"]\nsocket_user = \"daemon\"\n[service]\n" + noBinary, "", "3:15: socket.socket_user: chown DIR/s: operation not permitted", nil},
		{"no interface", "[[socket]]\nlisten = [\"tcp4://127.0.0.1:41300\"]\nbind_to_device = \"none7\"\n[service]\n" + noBinary, "3:18: socket.bind_to_device: setsockopt: no such device", "", nil},
		{"a low port", "[[socket]]\nlisten = [\"tcp4://127.0.0.1:1\"]\n[service]\n" + noBinary, "", "2:11: socket.listen: tcp://127.0.0.1:1: bind: permission denied", nil},
		{"a link in the way", "[[socket]]\nlisten = [\"unix://DIR/s\"]\nsymlinks = [\"DIR/plain\"]\n[service]\n" + noBinary, "3:12: socket.symlinks: DIR/plain: a regular file stands there and is not removed", "", nil},

		{"its own socket for stdout", anySocket + noBinary + "stdout = \"DIR/s\"\nstderr = \"DIR/.s.activator\"",
			"5:10: service.stdout: DIR/s: a socket stands there\n6:10: service.stderr: DIR/.s.activator: a socket stands there", "", nil},
		{"a file below its socket", anySocket + noBinary + "stdout = \"DIR/s/out\"", "5:10: service.stdout: DIR/s/out: no such file or directory", "", nil},
		{"a mount in a folder of its own", anySocket + noBinary + "state_directory = \"examine-own\"\n[sandbox]\ntmpfs = [\"STATE/examine-own/t\"]",
			"7:10: sandbox.tmpfs: STATE/examine-own/t: no such file or directory", "", nil},
		{"folders of its own in each other", anySocket + noBinary + "state_directory = [\"examine-own\", \"examine-own/in\"]", "", "", nil},
		{"a long argument", anySocket + "exec = [\"/bin/true\", \"" + strings.Repeat("x", 140_000) + "\"]", "4:22: service.exec: has 140000 bytes, and the kernel takes 131071", "", fourKiB},
		{"many names", manyNames(525) + noBinary, "2:8: socket.name: the names of 525 sockets make 131789 bytes of LISTEN_FDNAMES, and the kernel takes 131071", "", fourKiB},
		{"many names that nobody is told", manyNames(525) + noBinary + "handover = \"proxy\"", "", "", nil},
		{"a long variable", anySocket + noBinary + "environment = { A = \"" + strings.Repeat("x", 140_000) + "\" }", "5:21: service.environment: has 140002 bytes, and the kernel takes 131071", "", fourKiB},
		{"many arguments", anySocket + "limits = { stack = \"2M\" }\nexec = [\"/bin/true\"" + strings.Repeat(", \""+strings.Repeat("x", 100_000)+"\"", 8) + "]",
			"5:8: service.exec: the arguments and the environment have 800", "", nil},
		{"another kind of namespace", anySocket + noBinary + "[sandbox]\nnetwork = \"/proc/self/ns/mnt\"", "6:11: sandbox.network: /proc/self/ns/mnt: it is a namespace of another kind", "", nil},
		{"no such machine", "[[socket]]\nlisten = [\"vsock://99:3100\"]\n[service]\n" + noBinary, "2:11: socket.listen: vsock://99:3100: bind: cannot assign requested address", "", hasVSock},

		{"in a folder that goes", "[[socket]]\nlisten = [\"unix://%t/examine-web/s\"]\n[service]\n" + noBinary + "runtime_directory = \"examine-web\"",
			"2:11: socket.listen: RUN/examine-web/s: stands in runtime_directory \"examine-web\" of service web, which is removed with everything in it when that ends", "", nil},
		{"in it by a link's name", "[[socket]]\nlisten = [\"unix:///var/run/examine-web/s\"]\n[service]\n" + noBinary + "runtime_directory = \"examine-web\"",
			"2:11: socket.listen: /var/run/examine-web/s: stands in runtime_directory \"examine-web\" of service web, which is removed with everything in it when that ends",
			"2:11: socket.listen: unix:///var/run/examine-web/s: make /var/run/examine-web/s: permission denied",
			func() bool {
				target, err := os.Readlink("/var/run")
				return err == nil && filepath.Base(target) == "run"
			}},
		{"in a folder that is given", "[[socket]]\nlisten = [\"unix:///var/lib/examine-web/d/s\"]\n[service]\n" + noBinary + "state_directory = \"examine-web\"",
			"2:11: socket.listen: /var/lib/examine-web/d/s: stands in state_directory \"examine-web\" of service web, which is given to that with everything in it",
			"2:11: socket.listen: unix:///var/lib/examine-web/d/s: make /var/lib/examine-web/d/s: permission denied", nil},
		{"a folder of its socket's", "[[socket]]\nlisten = [\"unix://DIR/later/deep/s\"]\n[service]\n" + noBinary + "stdout = \"DIR/later/log\"\n[sandbox]\nread_only = [\"DIR/later/deep:/srv/deep\", \"DIR/later/deep/s:/srv/s\"]", "", "", nil},
		{"a target that cannot be made", proxied("/usr/x") + noBinary, "3:10: socket.target: /usr/x: read-only file system", "", nil},
		{"a target in the root", proxied("/nonexist/x") + noBinary, "3:10: socket.target: /nonexist/x: read-only file system", "", nil},
		{"a target in /proc", proxied("/proc/x") + noBinary, "3:10: socket.target: /proc/x: read-only file system", "", nil},
		{"a target in a file", proxied("/etc/passwd/x") + noBinary, "3:10: socket.target: /etc/passwd/x: not a directory", "", nil},
		{"a target in a read-only mount", proxied("/srv/x") + noBinary + "[sandbox]\nread_only = [\"DIR/folder:/srv\"]", "3:10: socket.target: /srv/x: read-only file system", "", nil},
		{"a target in root's folder", proxied("/srv/x") + noBinary + "[sandbox]\nwritable = [\"DIR/mine-only:/srv\"]", "3:10: socket.target: /srv/x: permission denied", "-", nil},
		{"targets that can", "[[socket]]\nlisten = [\"unix://DIR/1\"]\ntarget = \"unix:///run/x\"\n[[socket]]\nlisten = [\"unix://DIR/2\"]\ntarget = \"unix:///tmp/not/yet/x\"\n" +
			"[[socket]]\nlisten = [\"unix://DIR/3\"]\ntarget = \"unix:///srv/x\"\n[[socket]]\nlisten = [\"unix://DIR/4\"]\ntarget = \"unix:///var/run/x\"\n" +
			"[[socket]]\nlisten = [\"unix://DIR/5\"]\ntarget = \"unix://%t/examine-web/x\"\n[[socket]]\nlisten = [\"unix://DIR/6\"]\ntarget = \"unix:///opt/x\"\n" +
			"[service]\nhandover = \"proxy\"\nruntime_directory = \"examine-web\"\n" + noBinary + "[sandbox]\ntmpfs = [\"/srv\"]\nwritable = [\"DIR/anyone:/opt\"]", "", "", nil},
		{"a container's option", "[[socket]]\nlisten = [\"unix://DIR/s\"]\n[container]\nimage = \"x\"\noptions = [\"--tz=UTC\",\n\"--pod=y\"]\n", "6:1: container.options: \"--pod=y\": a pod has a network of its own", "", nil},
		{"one node by a link", "[[socket]]\nlisten = [\"unix://DIR/folder/s\", \"unix://DIR/theirs/link/s\",\n\"unixgram://DIR/theirs/there/s\"]\n[service]\n" + noBinary,
			"3:1: socket.listen: DIR/theirs/there/s is taken already, at DIR/web.toml:2:", "", nil},
		{"a link at another's reserve", "[[socket]]\nlisten = [\"unix://DIR/theirs/there/s\"]\n[[socket]]\nlisten = [\"unix://DIR/folder/s\"]\nsymlinks = [\"DIR/theirs/link/.s.activator\"]\n[service]\n" + noBinary,
			"5:12: socket.symlinks: DIR/theirs/link/.s.activator leads to DIR/theirs/there/.s.activator: DIR/theirs/there/.s.activator is the second name of a socket, at DIR/web.toml:2:", "", nil},
		{"idle", "[[socket]]\nlisten = [\"unixgram://DIR/s\"]\npass_credentials = true\n[service]\n" + noBinary + "idle_timeout = \"1s\"", "6:16: service.idle_timeout: unixgram://DIR/s: nothing tells when", "", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			b.fill()
			want := test.want
			if !root && test.user != "" {
				want = test.user
			}
			if want == "-" || test.only != nil && !test.only() {
				want = ""
			}
			env := config.HostEnv()
			state := filepath.Dir(process.DirectoryPath(spec.Directory{Kind: "state", Name: "any"}))
			want = strings.NewReplacer("DIR", b.dir, "RUN", env.Runtime, "STATE", state).Replace(want)
			var got []string
			for _, e := range b.examine(strings.ReplaceAll(test.text, "STATE", state)) {
				got = append(got, fmt.Sprintf("%d:%d: %s: %s", e.Line, e.Column, e.Key, e.Text))
			}
			lines := strings.Split(want, "\n")
			if want == "" {
				lines = nil
			}
			if len(got) != len(lines) {
				t.Fatalf("found %q, want %q", got, lines)
			}
			for i := range lines {
				if !strings.HasPrefix(got[i], lines[i]) {
					t.Errorf("found %q, want %q", got[i], lines[i])
				}
			}
		})
	}
}

// onlyOurFormats reports whether it is certain that no emulator is registered.
func onlyOurFormats() bool {
	known, err := os.ReadFile("/proc/filesystems")
	entries, _ := os.ReadDir("/proc/sys/fs/binfmt_misc")
	return err == nil && (!strings.Contains(string(known), "\tbinfmt_misc\n") || len(entries) == 2 || len(entries) == 0)
}

func fourKiB() bool { return os.Getpagesize() == 4096 }

func hasVSock() bool {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		_ = unix.Close(fd)
	}
	return err == nil
}

func cannotRaise() bool {
	text, _ := os.ReadFile("/proc/self/status")
	_, after, _ := strings.Cut(string(text), "CapEff:\t")
	bits, _ := strconv.ParseUint(strings.Fields(after)[0], 16, 64)
	const resource = 24
	return bits&(1<<resource) == 0
}

// manyNames is a group of n sockets with a long name, from its header to that of the service.
func manyNames(n int) string {
	var listen strings.Builder
	for i := range n {
		fmt.Fprintf(&listen, "\"unix://@examine-%d\",", i)
	}
	return "[[socket]]\nname = \"" + strings.Repeat("n", 250) + "\"\nlisten = [" + listen.String() + "]\n[service]\n"
}

// fill puts there what the configurations name.
func (b bench) fill() {
	b.write("plain", "x", 0o644)
	b.write("text", "no program\n", 0o755)
	b.write("theirs/there/file", "", 0o644)
	if err := os.Symlink("there", filepath.Join(b.dir, "theirs/link")); err != nil {
		b.t.Fatal(err)
	}
	b.write("empty", "", 0o755)
	b.write("marked", "\ufeff#!/bin/sh\n", 0o755)
	const header64 = "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00"
	b.write("alien", header64+"\xf3\x00", 0o755) // of RISC-V
	b.write("small-elf", "\x7fELF", 0o755)
	b.write("relative", "#!./shell\n", 0o755)
	b.write("windows", "#!/bin/sh\r\necho\r\n", 0o755)
	b.write("windows-env", "#!/usr/bin/env sh\r\n", 0o755)
	b.write("env-words", "#!/usr/bin/env sh -e\n", 0o755)
	b.write("env-split", "#!/usr/bin/env -S -i A=b sh -e\n", 0o755)
	b.write("env-split-none", "#!/usr/bin/env -S -i A=b no-such-program -e\n", 0o755)
	b.write("folder/file", "", 0o644)
	b.write("script", "#!"+b.dir+"/none\n", 0o755)
	b.write("nested", "#!"+b.dir+"/script\n", 0o755)
	b.write("script-own", "#!"+b.dir+"/shell -e\n", 0o755)
	b.write("env", "#!/usr/bin/env sh\n", 0o755)
	b.write("env-none", "#! /usr/bin/env no-such-program\n", 0o755)
	b.write("env-options", "#!/usr/bin/env -i no-such-program\n", 0o755)
	b.write("execute-only", "#!/bin/sh\n", 0o711)
	b.write("bin/mine", "#!/bin/sh\n", 0o755)
	for name, mode := range map[string]os.FileMode{"mine-only": 0o700, "anyone": 0o777} {
		b.write(name+"/file", "", 0o600)
		if err := os.Chmod(filepath.Join(b.dir, name), mode); err != nil {
			b.t.Fatal(err)
		}
	}
	shell, err := os.ReadFile("/bin/sh")
	if err != nil {
		b.t.Fatal(err)
	}
	b.write("shell", string(shell), 0o755)
	b.write("binary-execute-only", string(shell), 0o711)
	live, err := net.Listen("unix", filepath.Join(b.dir, "live"))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = live.Close() })
	stale, err := net.Listen("unix", filepath.Join(b.dir, "stale"))
	if err != nil {
		b.t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = stale.Close()
}

// What only the host can cure is told apart: it is no error of the configuration.
func TestExamineTellsTheHostApart(t *testing.T) {
	b := newBench(t)
	b.fill()
	found := b.examine("[[socket]]\nlisten = [\"unix://DIR/live\"]\n[service]\n" + noBinary)
	if len(found) != 1 || IsCurable(found) {
		t.Errorf("a live socket in the way: %v", found)
	}
	found = b.examine("[[socket]]\nlisten = [\"unix://DIR/plain\"]\n[service]\n" + noBinary)
	if len(found) != 1 || !IsCurable(found) {
		t.Errorf("a file in the way: %v", found)
	}
	found = b.examine("[[socket]]\nlisten = [\"unix://DIR/live\"]\n[service]\nexec = [\"DIR/none\"]")
	if len(found) != 2 || !IsCurable(found) {
		t.Errorf("and a program that is not there: %v", found)
	}
}

// Every finding has a cure that helps, and no reason that is not true.
func TestExamineCures(t *testing.T) {
	link := anySocket + noBinary + "stdout = \"DIR/theirs/link/out\"\n[sandbox]\nwritable = [\"DIR/theirs\"]\nread_only = [\"DIR/theirs/link:/srv/x\"]"
	for _, test := range []struct{ text, text1, cure string }{
		{anySocket + `exec = ["DIR/marked"]`, "neither a program", "save it as UTF-8 without one"},
		{anySocket + `exec = ["DIR/text"]`, "neither a program", "a script begins with a line such as #!/bin/sh"},
		{anySocket + `exec = ["DIR/empty"]`, "neither a program", "the file is empty"},
		{anySocket + `exec = ["DIR/windows"]`, "Windows line ends", `sed -i 's/\r$//' DIR/windows`},
		{anySocket + `exec = ["DIR/env-words"]`, "one argument", "write #!/usr/bin/env -S sh -e"},
		{anySocket + `exec = ["DIR/script"]`, "does not exist on the host", "install it"},
		{anySocket + `exec = ["DIR/script-own"]`, "is not there inside", "mount it with read_only"},
		{link, "DIR/theirs/link is a symbolic link below DIR/theirs, which a service may write, and not followed", "name the path that it leads to"},
		{"[[socket]]\nlisten = [\"unix://DIR/theirs/link/s\"]\n[service]\n" + noBinary + "[sandbox]\nwritable = [\"DIR/theirs\"]",
			"DIR/theirs/link is a symbolic link below DIR/theirs, which a service may write, and not followed", "name the path that it leads to"},
		{"[[socket]]\nlisten = [\"unix://DIR/plain\"]\n[service]\n" + noBinary, "a regular file stands there", "move it away, or give the socket another path"},
		{"[[socket]]\nlisten = [\"unix://DIR/folder\"]\n[service]\n" + noBinary, "a folder stands there", "move it away, or give the socket another path"},
		{"[[socket]]\nlisten = [\"unix://DIR/live\"]\n[service]\n" + noBinary, "a live socket of ourselves, pid ", "stop it first"},
		{"[[socket]]\nlisten = [\"unix:///proc/self/s\"]\n[service]\n" + noBinary, "make /proc/self/s: ", "folder"},
		{anySocket + noBinary + "limits = { nofile = 3 }", "nofile: 3 is less", "write at least 20"},
		{anySocket + noBinary + "working_directory = \"/etc/passwd\"", "not a folder", "name a folder"},
	} {
		b := newBench(t)
		b.fill()
		in := func(text string) string { return strings.ReplaceAll(text, "DIR", b.dir) }
		if strings.Contains(test.text, "DIR/text") || strings.Contains(test.text, "DIR/empty") || strings.Contains(test.text, "DIR/marked") {
			if !onlyOurFormats() {
				continue
			}
		}
		found := b.examine(test.text)
		if len(found) == 0 {
			t.Errorf("%s: nothing found", test.text)
		}
		for _, e := range found {
			if !strings.Contains(e.Text, in(test.text1)) || !strings.Contains(e.Cure, in(test.cure)) {
				t.Errorf("%s: %q, cure %q; want %q, cure %q", test.text, e.Text, e.Cure, in(test.text1), in(test.cure))
			}
		}
	}
}

// What is used up for the moment is no finding.
func TestPassing(t *testing.T) {
	for errno, want := range map[syscall.Errno]bool{syscall.EAGAIN: true, syscall.ENOMEM: true, syscall.EPERM: false, syscall.EINVAL: false} {
		if got := (&process.StepError{Step: "clone", Errno: errno}).Passing(); got != want {
			t.Errorf("%v: %v", errno, got)
		}
	}
}
