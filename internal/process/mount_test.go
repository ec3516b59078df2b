package process

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"activator/internal/ktest"
	"activator/internal/spec"
)

func TestMountsAreSeenAsAsked(t *testing.T) {
	dir := shared(t)
	write(t, dir+"/ro/file", "text", 0o666)
	write(t, dir+"/rw/file", "text", 0o666)
	write(t, dir+"/rw/sub/file", "text", 0o666)
	for _, folder := range []string{dir + "/ro/file", dir + "/rw/file", dir + "/rw/sub/file"} {
		if err := os.Chmod(folder, 0o666); err != nil { // past our umask
			t.Fatal(err)
		}
	}
	process := helperSpec("touch", "/data/ro/file", "/data/rw/file", "/data/rw/sub/file", "/data/one", "/tmp/deep/er/one")
	process.Sandbox.ReadOnly = []spec.Mount{{Host: dir + "/ro", Inside: "/data/ro"}, {Host: dir + "/rw/sub", Inside: "/data/rw/sub"}, {Host: dir + "/rw/file", Inside: "/data/one"}}
	process.Sandbox.Writable = []spec.Mount{{Host: dir + "/rw", Inside: "/data/rw"}, {Host: dir + "/rw/file", Inside: "/tmp/deep/er/one"}}
	out, _ := start(t, process).end(t)
	want := "/data/ro/file true false\n/data/rw/file true true\n/data/rw/sub/file true false\n/data/one true false\n/tmp/deep/er/one true true\n"
	if out != want {
		t.Errorf("got\n%s", out)
	}
}

func TestFreshFolders(t *testing.T) {
	process := helperSpec("view")
	process.Sandbox.Tmpfs = []string{"/srv/scratch", "/usr/local"}
	v := start(t, process).view(t)
	if got := strings.Join(v.Writable, " "); !strings.Contains(got, "/srv/scratch") || !strings.Contains(got, "/usr/local") {
		t.Errorf("%s", got)
	}
}

// A folder as root needs no mount points of its own.
func TestRootFolder(t *testing.T) {
	dir := shared(t)
	data, err := os.ReadFile(helperSpec().Argv[0])
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/opt/service", string(data), 0o755)
	write(t, dir+"/var/hidden", "", 0o644)
	if err := os.Symlink("opt", dir+"/alias"); err != nil {
		t.Fatal(err)
	}
	process := helperSpec("view")
	process.Argv[0] = "/alias/service"
	process.Sandbox.Root = dir
	for _, library := range []string{"/usr", "/lib", "/lib64"} { // of a dynamic test binary
		if _, err := os.Stat(library); err == nil {
			process.Sandbox.ReadOnly = append(process.Sandbox.ReadOnly, spec.Mount{Host: library, Inside: library})
		}
	}
	v := start(t, process).view(t)
	var top []string
	for _, name := range v.Top {
		if !strings.HasPrefix(name, "lib") && name != "usr" {
			top = append(top, name)
		}
	}
	id, err := findIdentity(&process)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"alias", "dev", "opt", "proc", "run", "tmp", "var"}
	if filepath.Dir(id.home) == "/home" {
		want = slices.Insert(want, 2, "home")
	}
	if !reflect.DeepEqual(top, want) {
		t.Errorf("top %q", top)
	}
	if want := writableFolders(id); !reflect.DeepEqual(v.Writable, want) {
		t.Errorf("writable %q", v.Writable)
	}
}

// Root's service is another user, but its program may lie below anybody's
// private folder.
func TestProgramBelowPrivateFolder(t *testing.T) {
	dir := shared(t)
	data, err := os.ReadFile(helperSpec().Argv[0])
	if err != nil {
		t.Fatal(err)
	}
	process := helperSpec("view")
	process.Argv[0] = write(t, dir+"/private/service", string(data), 0o755)
	if os.Geteuid() == 0 {
		if err := os.Chown(dir+"/private", 12345, 12345); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir+"/private", 0o700); err != nil {
		t.Fatal(err)
	}
	start(t, process).view(t)
}

func TestDirectories(t *testing.T) {
	dir := shared(t)
	for _, variable := range []string{"XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"} {
		t.Setenv(variable, dir+"/"+variable)
	}
	name := "activator-test-" + itoa(os.Getpid())
	kept := []string{"/var/lib/" + name + "/a", "/var/cache/" + name, "/var/log/" + name}
	runtimeDir := "/run/" + name
	if os.Geteuid() != 0 {
		kept = []string{dir + "/XDG_STATE_HOME/" + name + "/a", dir + "/XDG_CACHE_HOME/" + name, dir + "/XDG_STATE_HOME/log/" + name}
		runtimeDir = dir + "/XDG_RUNTIME_DIR/" + name
	}
	t.Cleanup(func() {
		for _, path := range append(kept, filepath.Dir(kept[0])) {
			if strings.Contains(path, name) {
				_ = os.RemoveAll(path)
			}
		}
	})
	process := helperSpec("view")
	process.Directories = []spec.Directory{{Kind: "state", Name: name + "/a"}, {Kind: "cache", Name: name}, {Kind: "logs", Name: name}, {Kind: "runtime", Name: name}}
	s := start(t, process)
	v := s.view(t)
	for i, variable := range []string{"STATE_DIRECTORY", "CACHE_DIRECTORY", "LOGS_DIRECTORY", "RUNTIME_DIRECTORY"} {
		want := append(kept[:3:3], runtimeDir)[i]
		if v.Env[variable] != want {
			t.Errorf("%s=%s, not %s", variable, v.Env[variable], want)
		}
	}
	var stat unix.Stat_t
	for _, path := range kept {
		if err := unix.Stat(path, &stat); err != nil || int(stat.Uid) != v.UID {
			t.Errorf("%s: %v, uid %d", path, err, stat.Uid)
		}
	}
	if _, err := os.Stat(runtimeDir); !os.IsNotExist(err) {
		t.Errorf("%s: %v", runtimeDir, err)
	}
}

func TestNotifySocketHasNoPathOnTheHost(t *testing.T) {
	for _, bare := range []bool{false, true} {
		process := helperSpec("notify", "READY=1")
		process.Notify, process.Bare = true, bare
		s := start(t, process)
		socket := s.TakeNotifySocket()
		if s.TakeNotifySocket() != nil {
			t.Error("returned twice")
		}
		conn, err := socket.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		data, control := make([]byte, 64), make([]byte, 256)
		var n, cn int
		var recvErr error
		err = conn.Read(func(fd uintptr) bool {
			n, cn, _, _, recvErr = unix.Recvmsg(int(fd), data, control, unix.MSG_CMSG_CLOEXEC)
			return recvErr != unix.EAGAIN
		})
		if err != nil || recvErr != nil || string(data[:n]) != "READY=1" {
			t.Fatalf("%v, %v, %q", err, recvErr, data[:n])
		}
		messages, _ := unix.ParseSocketControlMessage(control[:cn])
		if credentials, err := unix.ParseUnixCredentials(&messages[0]); err != nil || int(credentials.Pid) != s.Pid() {
			t.Errorf("%v, %+v, pid %d", err, credentials, s.Pid())
		}
		s.Kill()
		if _, err := s.Wait(); err != nil {
			t.Error(err)
		}
		if err := socket.Close(); err != nil {
			t.Error(err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "activator-notify-*")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

func TestNetworkByName(t *testing.T) {
	name := "activator-" + itoa(os.Getpid())
	if _, err := os.Lstat("/run/netns"); err != nil { // the library makes it, and leaves it
		t.Cleanup(func() { _ = os.Remove("/run/netns") })
	}
	made := make(chan error)
	go func() { // on a thread that ends with it
		runtime.LockOSThread()
		handle, err := netns.NewNamed(name)
		if err == nil {
			err = handle.Close()
		}
		made <- err
	}()
	if err := <-made; err != nil {
		if os.Geteuid() != 0 {
			refusedToUser(t)
			return
		}
		ktest.Skip(t, "%v", err)
	}
	defer func() {
		if err := netns.DeleteNamed(name); err != nil {
			t.Error(err)
		}
	}()
	for _, network := range []string{"netns:" + name, "/run/netns/" + name} {
		process := helperSpec("view")
		process.Sandbox.Network = network
		v := start(t, process).view(t)
		if !reflect.DeepEqual(v.Interfaces, []string{"lo false []"}) { // nobody brought it up
			t.Errorf("%q", v.Interfaces)
		}
	}
	hostsNetwork(t)
}

func hostsNetwork(t *testing.T) {
	t.Helper()
	process := helperSpec("view")
	process.Sandbox.Network = "host"
	if got, want := start(t, process).view(t).Interfaces, look().Interfaces; !reflect.DeepEqual(got, want) {
		t.Errorf("host: %q, not %q", got, want)
	}
}

func refusedToUser(t *testing.T) {
	t.Helper()
	other := exec.Command("cat")
	other.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET}
	end, err := other.StdinPipe()
	if err == nil {
		err = other.Start()
	}
	if err != nil {
		ktest.Skip(t, "%v", err)
	}
	defer func() {
		_ = end.Close()
		_ = other.Wait()
	}()
	process := helperSpec("view")
	process.Sandbox.Network = fmt.Sprintf("/proc/%d/ns/net", other.Process.Pid)
	_, err = prepare(t, process)
	if err == nil || !strings.Contains(err.Error(), "CAP_SYS_ADMIN") {
		t.Errorf("%v", err)
	}
	hostsNetwork(t)
}

func TestNamedUserHasItsGroups(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root starts services as another user")
	}
	if _, err := os.Stat("/etc/group"); err != nil {
		ktest.Skip(t, "%v", err)
	}
	for _, test := range []struct {
		user, group string
		uid, gid    int
	}{{"nobody", "", 65534, 65534}, {"4242", "", 4242, 4242}, {"4242", "4343", 4242, 4343}, {"root", "", 0, 0}} {
		process := helperSpec("view")
		process.User, process.Group = test.user, test.group
		v := start(t, process).view(t)
		if v.UID != test.uid || v.GID != test.gid || v.Status["CapEff"] != "0000000000000000" || v.Status["CapBnd"] != "0000000000000000" {
			t.Errorf("%s: %+v", test.user, v)
		}
	}
}
