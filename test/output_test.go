package test

import (
	"bufio"
	"errors"
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

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
)

// meddle does to its stdout what a service must not be able to do to what it leads
// to, says on stderr what it has read, and prints a line.
func meddle() {
	say := func(what string, err error, text string) { fmt.Fprintf(os.Stderr, "%s: %v: %q\n", what, err, text) }
	for _, flags := range []int{unix.O_RDONLY, unix.O_RDWR} {
		fd, err := unix.Open("/proc/self/fd/1", flags|unix.O_NONBLOCK, 0)
		text := make([]byte, 4096)
		n := 0
		if err == nil {
			n, err = unix.Read(fd, text)
			_ = unix.Close(fd)
		}
		say("read", err, string(text[:max(n, 0)]))
	}
	n, err := unix.Read(1, make([]byte, 4096))
	say("read directly", err, fmt.Sprint(n))
	_, err = unix.FcntlInt(1, unix.F_SETFL, 0)
	say("flags", err, "")
	say("truncate", errors.Join(unix.Ftruncate(1, 0), unix.Truncate("/proc/self/fd/1", 0)), "")
	_, err = unix.Pwrite(1, []byte("forged"), 0)
	say("overwrite", err, "")
	say("mode", unix.Fchmod(1, 0o666), "")
	if to, err := net.ResolveUDPAddr("udp4", os.Getenv("ELSEWHERE")); err == nil && to.IP != nil {
		say("send", unix.Sendto(1, []byte("forged"), 0, &unix.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())}), "")
	}
	_, _ = os.Stdout.WriteString("printed\n")
	say("meddled", nil, "")
}

// meddled runs a service that meddles with its stdout, to its end.
func meddled(t *testing.T, stdout, more string, own *os.File) *activator {
	t.Helper()
	dir := folder(t)
	socket := filepath.Join(dir, "s")
	config := configureIn(t, dir, "meddle", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s\"]\n[service]\nexec = [\"SELF\"]\nwarm = false\nstdout = %q\n"+
		"environment = [\"ACTIVATOR_TEST_SERVICE=meddle\", \"ELSEWHERE=%s\"]\n", socket, stdout, os.Getenv("ELSEWHERE"))+more)
	cmd := exec.Command(program(t, "activator"), "--config", config)
	cmd.Stdout = own
	a := launchAs(t, cmd)
	t.Cleanup(a.stop)
	a.wait("activator ready")
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a.wait("stream=stderr", "meddled")
	a.wait("service=meddle", "exit=")
	return a
}

// A service has a pipe of its own, whatever its stdout leads to: it adds to that and
// neither reads, cuts off or overwrites what others wrote, nor sends to others.
func TestStdoutIsNotMeddledWith(t *testing.T) {
	t.Run("file", meddleWithFile)
	t.Run("pipe", meddleWithPipe)
	t.Run("terminal", meddleWithTerminal)
	t.Run("datagrams", meddleWithDatagrams)
	t.Run("FIFO", meddleWithFIFO)
}

func meddleWithFile(t *testing.T) {
	path := filepath.Join(folder(t), "out")
	if err := os.WriteFile(path, []byte("of others\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	meddled(t, path, "", nil)
	if text, err := os.ReadFile(path); err != nil || string(text) != "of others\nprinted\n" {
		t.Errorf("%q, %v", text, err)
	}
}

func meddleWithPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString("of others\n"); err != nil {
		t.Fatal(err)
	}
	meddled(t, "inherit", "", w).stop()
	w.Close()
	if text, err := io.ReadAll(r); err != nil || string(text) != "of others\nprinted\n" {
		t.Errorf("%q, %v", text, err)
	}
}

func meddleWithTerminal(t *testing.T) {
	master, slave := openTerminal(t)
	if _, err := master.WriteString("typed\n"); err != nil {
		t.Fatal(err)
	}
	meddled(t, "inherit", "", slave)
	if typed, err := bufio.NewReader(slave).ReadString('\n'); typed != "typed\n" {
		t.Errorf("%q, %v", typed, err)
	}
}

func meddleWithDatagrams(t *testing.T) {
	conn := func() *net.UDPConn {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	log, elsewhere := conn(), conn()
	t.Setenv("ELSEWHERE", elsewhere.LocalAddr().String())
	out, err := net.DialUDP("udp4", nil, log.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	own, err := out.File()
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	meddled(t, "inherit", "", own)
	b := make([]byte, 100)
	if n, _, err := log.ReadFrom(b); err != nil || string(b[:n]) != "printed\n" {
		t.Errorf("%q, %v", b[:n], err)
	}
	_ = elsewhere.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // loopback: it was there at once
	if n, _, err := elsewhere.ReadFrom(b); err == nil {
		t.Errorf("it sent %q", b[:n])
	}
}

func meddleWithFIFO(t *testing.T) {
	path := filepath.Join(folder(t), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	fifo, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer fifo.Close()
	meddled(t, path, "", nil)
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil || int(stat.Uid) != os.Geteuid() || stat.Mode&0o777 != 0o600 {
		t.Errorf("%d's, mode %o, %v", stat.Uid, stat.Mode, err)
	}
	if line, err := bufio.NewReader(fifo).ReadString('\n'); line != "printed\n" {
		t.Errorf("%q, %v", line, err)
	}
}

// openTerminal opens both ends of a pseudo terminal.
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		ktest.Skip(t, "%v", err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, master.Fd(), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		t.Fatal(errno)
	}
	slave = os.NewFile(fd, "slave")
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

// stdout may be a file in a folder that is the service's own, which is made first.
func TestStdoutInOwnFolder(t *testing.T) {
	bases := map[string]string{"logs": "/var/log", "state": "/var/lib", "cache": "/var/cache", "runtime": "/run"}
	if os.Geteuid() != 0 {
		home := folder(t)
		for kind, variable := range map[string]string{"state": "XDG_STATE_HOME", "cache": "XDG_CACHE_HOME", "runtime": "XDG_RUNTIME_DIR"} {
			t.Setenv(variable, filepath.Join(home, kind))
			bases[kind] = filepath.Join(home, kind)
			if err := os.Mkdir(bases[kind], 0o700); err != nil {
				t.Fatal(err)
			}
		}
		bases["logs"] = filepath.Join(bases["state"], "log")
	}
	for kind, base := range bases {
		t.Run(kind, func(t *testing.T) {
			name := fmt.Sprintf("activator-test-%s-%d", kind, os.Getpid())
			own := filepath.Join(base, name)
			defer os.RemoveAll(own)
			a := meddled(t, filepath.Join(own, "out"), fmt.Sprintf("%s_directory = %q\n", kind, name), nil)
			if n := a.log.count("level=ERROR"); n > 0 {
				t.Errorf("%d errors", n)
			}
			text, err := os.ReadFile(filepath.Join(own, "out"))
			if kind == "runtime" { // it goes with the run
				if !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%q, %v", text, err)
				}
			} else if err != nil || strings.TrimSpace(string(text)) != "printed" {
				t.Errorf("%q, %v", text, err)
			}
		})
	}
}

// A terminal that the activator does not have is found before anything is opened. A FIFO may have a reader later: it is named, and
// so is what a client waits for.
func TestOutputThatNobodyTakes(t *testing.T) {
	dir := folder(t)
	text := fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/s\"]\n[service]\nexec = [\"ECHO\"]\nhold = \"infinity\"\nstdout = ", dir)
	path := configureIn(t, dir, "web", text+"\"/dev/tty\"\n")
	for _, args := range [][]string{{"check", path}, {"--config", path}} {
		cmd := exec.Command(program(t, "activator"), args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		a := launchAs(t, cmd)
		t.Cleanup(func() { _ = cmd.Process.Kill(); <-a.ended })
		a.wait(path + ":6:10: service.stdout: /dev/tty: no such device or address: the activator has no terminal")
		a.wait(`write "log" or "inherit", or print to a file`)
		if <-a.ended; cmd.ProcessState.ExitCode() != 2 {
			t.Errorf("%q ended with %v", args, a.status)
		}
	}

	if err := unix.Mkfifo(dir+"/fifo", 0o622); err != nil {
		t.Fatal(err)
	}
	configureIn(t, dir, "web", text+"\""+dir+"/fifo\"\n")
	says := "stdout: " + dir + "/fifo is a FIFO: the service is started only while somebody reads it"
	if said, code := ends(t, "check", path); code != 0 || !strings.Contains(said, "# service web: "+says+"\n") {
		t.Errorf("check ended with %d:\n%s", code, said)
	}
	a := activate(t, "--config", path)
	a.wait("level=WARN", says, "service=web")
	c, err := net.Dial("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a.wait("service not started", dir+"/fifo: no such device or address: nobody reads this FIFO; start its reader first")
	reader, err := os.OpenFile(dir+"/fifo", os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	a.wait("state=running")
	answersStill(t, c)
}
