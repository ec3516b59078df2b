package test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	"activator/internal/ktest"
)

// sees returns what a service of the given [sandbox] sees.
func sees(t *testing.T, sandbox string) (view, string) {
	t.Helper()
	dir := folder(t)
	listen, _ := fiveSockets(ktest.Port(t), dir)
	a := activate(t, "--config", configureIn(t, dir, "view",
		"[[socket]]\n"+listen+"\n[service]\nexec = [\"SELF\"]\nenvironment = [\"ACTIVATOR_TEST_SERVICE=view\"]\n"+sandbox))
	c, err := net.Dial("unix", dir+"/echo_stream_sock")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// The view is asked for by TCP, the first socket.
	text, err := io.ReadAll(dialFirst(t, listen))
	if err != nil {
		t.Fatal(err)
	}
	var v view
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	a.wait("state=running")
	return v, dir
}

func dialFirst(t *testing.T, listen string) net.Conn {
	t.Helper()
	_, rest, _ := strings.Cut(listen, `"tcp://`)
	addr, _, _ := strings.Cut(rest, `"`)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// What a process inside sees is compared whole: whatever the sandbox lets
// through besides is a failure.
func TestView(t *testing.T) {
	got, _ := sees(t, "")
	home, user := "/", "view"
	uid, gid := got.UID, got.GID
	if os.Getuid() != 0 {
		uid, gid = os.Getuid(), os.Getgid()
		home, user = os.Getenv("HOME"), os.Getenv("USER")
	} else if got.UID < 61184 || got.UID > 65519 || got.GID != got.UID {
		t.Errorf("uid %d, gid %d: want one of 61184 to 65519 for both", got.UID, got.GID)
	}
	none := "0000000000000000"
	want := view{
		Interfaces:   []string{"lo [127.0.0.1/8 ::1/128] up|loopback|running"},
		Capabilities: map[string]string{"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none},
		NoNewPrivs:   "1",
		PID:          1,
		Processes:    []string{"/proc/1"},
		FDs: map[string]string{"0": "/dev/null", "1": "pipe", "2": "pipe",
			"3": "socket", "4": "socket", "5": "socket", "6": "socket", "7": "socket"},
		Writable: []string{"/dev/shm", "/run", "/tmp", "/var", "/var/tmp"},
		UID:      uid,
		GID:      gid,
		Hostname: "view",
		Environment: []string{"ACTIVATOR_TEST_SERVICE=view", "GORACE=atexit_sleep_ms=0", "HOME=" + home, "LANG=C.UTF-8",
			"LISTEN_FDNAMES=view:view:view:view:view", "LISTEN_FDS=5", "LISTEN_PID=1",
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "USER=" + user},
	}
	if !reflect.DeepEqual(got, want) {
		g, _ := json.MarshalIndent(got, "", " ")
		w, _ := json.MarshalIndent(want, "", " ")
		t.Errorf("a service sees\n%s\nwant\n%s", g, w)
	}
}

// The contrast: with the host's network the same program sees the host's
// interfaces, so the denial comes from the isolation and not from the tool.
func TestViewOfHostNetwork(t *testing.T) {
	got, _ := sees(t, "[sandbox]\nnetwork = \"host\"\n")
	var want []string
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces {
		addrs, _ := i.Addrs()
		want = append(want, fmt.Sprint(i.Name, " ", addrs, " ", i.Flags))
	}
	if !reflect.DeepEqual(got.Interfaces, want) {
		t.Errorf("interfaces %q, want the host's %q", got.Interfaces, want)
	}
}

// As root no two services are one user, also when their names have one place in
// the range of ids, as these two have.
func TestNoTwoServicesAreOneUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("an ordinary user's services all are that user")
	}
	dir := folder(t)
	for _, name := range []string{"s4", "s848"} {
		configureIn(t, dir, name, fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/%s\"]\n[service]\nexec = [\"SELF\"]\nenvironment = [\"ACTIVATOR_TEST_SERVICE=view\"]\n", dir, name))
	}
	activate(t, "--config", dir)
	uids := make(map[int]bool)
	for _, name := range []string{"s4", "s848"} {
		c, err := net.Dial("unix", dir+"/"+name)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var v view
		if err := json.NewDecoder(c).Decode(&v); err != nil {
			t.Fatal(err)
		}
		uids[v.UID] = true
	}
	if len(uids) != 2 {
		t.Errorf("both services are user %v", uids)
	}
}

// A service has systemd's soft limit of descriptors, whatever ours is, and a hard one below ours.
func TestSoftLimitOfDescriptors(t *testing.T) {
	for _, tt := range []struct{ ours, service, want string }{
		{"ulimit -S -n 300", "[sandbox]\n", "limit 1024 of 2976"},
		{"ulimit -S -n 2000", "[sandbox]\ninit = true\n", "limit 1024 of 2976"},
		{"ulimit -S -n 2000", "[sandbox]\nnetwork = \"host\"\n", "limit 1024 of 2976"},
		{"ulimit -n 500", "[sandbox]\n", "limit 250 of 250"},
		{"ulimit -S -n 300", "limits = { nofile = \"2000:3000\" }\n", "limit 2000 of 3000"},
		{"ulimit -S -n 300", "limits = { nofile = 3000 }\n[sandbox]\ninit = true\n", "limit 3000 of 3000"},
	} {
		dir := folder(t)
		path := configureIn(t, dir, "limit", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/s\"]\n[service]\n"+
			"exec = [\"/bin/sh\", \"-c\", \"echo limit $(ulimit -S -n) of $(ulimit -H -n) >&2; exec cat\"]\nhandover = \"stdio\"\naccept = true\n%s", dir, tt.service))
		a := launchAs(t, exec.Command("sh", "-c", "ulimit -n 4000 && "+tt.ours+` && exec "$0" --config "$1"`, program(t, "activator"), path))
		a.wait("activator ready")
		answered(t, "a service", "unix:"+dir+"/s")
		a.wait(tt.want)
		a.stop()
	}
}
