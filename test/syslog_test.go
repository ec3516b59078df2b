package test

import (
	"fmt"
	"io"
	"net"
	"testing"
)

// What a program says by syslog(3) is in the log, with its level, whatever it may connect to; also that of an instance, whose
// output is its client. Nothing else can be connected by it, and nothing can be put in its place.
func TestSyslog(t *testing.T) {
	const program = `
import os, sys, syslog
from socket import *
s = sys.stdout
if KIND == 'fds': s = socket(fileno=3).accept()[0].makefile('w')
syslog.openlog('shop', syslog.LOG_PID, syslog.LOG_DAEMON)
syslog.syslog(syslog.LOG_ERR, 'no disk')
def told(path):
    with socket(AF_UNIX, SOCK_DGRAM) as c:
        try: c.connect(path)
        except OSError as e: return type(e).__name__
        c.send(b'<12>taken')
        return 'told'
other = socket(AF_UNIX, SOCK_DGRAM); other.bind('/tmp/other')
try: os.unlink('/run/.log'); os.symlink('/tmp/other', '/run/.log')
except OSError as e: pass
s.write(told('/dev/log') + ' ' + told('/tmp/other') + '\n'); s.flush()`
	for _, tt := range []struct{ kind, keys, answer string }{
		{"fds", "", "told PermissionError\n"},
		{"fds", "[sandbox]\nconnect = \"unix\"\n", "told told\n"}, // the second is told by the first, too: it is the program's own now
		{"stdio", "accept = true\n", "told PermissionError\n"},
	} {
		t.Run(tt.kind+" "+tt.keys, func(t *testing.T) {
			dir := folder(t)
			a := activate(t, "--config", configureIn(t, dir, "shop", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/s\"]\n[service]\nsyslog = true\nexec = [\"python3\", \"-c\", %q]\nhandover = %q\n%s",
				dir, "KIND = '"+tt.kind+"'"+program, tt.kind, tt.keys)))
			c, err := net.Dial("unix", dir+"/s")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if answer, err := io.ReadAll(c); string(answer) != tt.answer {
				t.Errorf("%q, %v", answer, err)
			}
			a.wait("level=ERROR", "shop[", "no disk", "stream=syslog", "service=shop")
			if tt.kind == "stdio" || tt.keys == "" {
				a.wait("level=WARN", "msg=taken", "stream=syslog")
			}
		})
	}
}

// The last words of a program that says them by syslog(3) only are told of its end.
func TestSyslogLastWords(t *testing.T) {
	dir := folder(t)
	a := activate(t, "--config", configureIn(t, dir, "shop", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/s\"]\n[service]\nsyslog = true\nexec = [\"python3\", \"-c\", %q]\n",
		dir, "import syslog, sys; syslog.openlog('shop'); syslog.syslog('no such table'); sys.exit(3)")))
	c, err := net.Dial("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a.wait("level=WARN", "exit status 3", "shop: no such table")
}
