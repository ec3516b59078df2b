package usernotif

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// copyOf is a process of the service's that has its socket, not bound yet, as 3.
func copyOf() {
	var err error
	switch _, address := open(os.Getenv("INTERCEPT_TEST_AT")); os.Getenv("INTERCEPT_TEST_DO") {
	case "bind":
		err = unix.Bind(3, address)
	case "bind and listen":
		if err = unix.Bind(3, address); err == nil {
			err = unix.Listen(3, 5)
		}
	}
	fmt.Println(err)
	if os.Getenv("INTERCEPT_TEST_STAYS") != "" {
		_, _ = io.ReadAll(os.Stdin) // until the service has ended
	}
	os.Exit(0)
}

// copyTo starts a process with a copy of the last socket, and returns when that has done what it does. One that stays goes
// with the service, which is pid 1.
func copyTo(does string, stays bool) error {
	if last < 3 {
		last, _ = open(at)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c := exec.Command(self)
	env := slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "INTERCEPT_TEST_SERVICE=") })
	c.Env = append(env, "INTERCEPT_TEST_SERVICE=copy", "INTERCEPT_TEST_AT="+at, "INTERCEPT_TEST_DO="+does)
	number, err := unix.FcntlInt(uintptr(last), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(number), "copy")
	defer file.Close()
	c.ExtraFiles = []*os.File{file}
	if stays {
		c.Env = append(c.Env, "INTERCEPT_TEST_STAYS=1")
		if _, err := c.StdinPipe(); err != nil {
			return err
		}
	}
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		return err
	}
	var answer [100]byte
	n, err := out.Read(answer[:])
	if err == nil && !stays {
		err = c.Wait()
	}
	if text := strings.TrimSpace(string(answer[:n])); err == nil && text != "<nil>" {
		return said(text)
	}
	return err
}

func init() {
	attempts["a child has a copy"] = func() error { return copyTo("", true) }
	attempts["a child binds it and ends"] = func() error { return copyTo("bind", false) }
	attempts["a child binds it and listens"] = func() error { return copyTo("bind and listen", true) }
	attempts["bind what a child has"] = func() error { _, address := open(at); return unix.Bind(last, address) }
}

// Copies of a socket in other processes are not exchanged when one of them binds it: one that listens gets ours then, and of one
// that does not the log is told.
func TestCopiesInOtherProcesses(t *testing.T) {
	const at = " at tcp4 0.0.0.0:80"
	const warning = "has a copy of the socket that it binds to tcp4://:80 in another process"
	for _, test := range []struct {
		does   []string
		warns  bool
		serves bool // by the socket of the process that started the other one
	}{
		{[]string{"a child binds it and ends" + at, "listen"}, false, true},
		{[]string{"bind" + at, "a child has a copy" + at, "listen"}, false, true}, // which is of ours
		{[]string{"a child has a copy" + at, "bind what a child has" + at, "listen"}, true, true},
		{[]string{"a child binds it and listens" + at}, true, false},
		{[]string{"a child binds it and listens" + at, "listen"}, true, true},
	} {
		t.Run(strings.Join(test.does, ", "), func(t *testing.T) {
			f, address := hostSocket(t, "tcp4 127.0.0.1:0")
			target := wildcard4
			target.File = f
			said := make(chan string, 10)
			s := supervise(t, t.Context(), Policy{Warn: func(text string) { said <- text }, Targets: []Target{target}})
			for _, does := range test.does {
				s.wants(does, "ok")
			}
			if !s.serving() {
				t.Error("not serving: " + s.DescribeMissing())
			}
			if test.serves {
				s.askStream(address, "answer")
			}
			s.end()
			close(said)
			var warned []string
			for text := range said {
				warned = append(warned, text)
			}
			if test.warns != (len(warned) == 1 && strings.HasPrefix(warned[0], warning) && strings.Contains(warned[0], "handover = \"proxy\"")) || !test.warns && len(warned) > 0 {
				t.Errorf("warned %q", warned)
			}
		})
	}
}
