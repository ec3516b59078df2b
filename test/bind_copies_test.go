package test

import (
	"fmt"
	"io"
	"net"
	"testing"

	"activator/internal/ktest"
)

// A program may make its socket, start another process, and have one of them bind it: the other one's copy becomes the host's
// socket when it listens by it, and of one by which it only accepts the log says so.
func TestBindByAnotherProcess(t *testing.T) {
	const begin = "import os, signal, sys; from socket import *\ndef serve(s):\n    while True: c = s.accept()[0]; c.send(b'x'); c.close()\n"
	for _, tt := range []struct {
		name, program string
		warns         int
	}{
		{"a helper binds", begin + `
s = socket()
if os.fork() == 0: s.bind(("", 80)); os._exit(0)
os.wait(); s.listen(); serve(s)
`, 0},
		{"a child accepts", begin + `
s = socket()
bound, told = os.pipe()
if os.fork() == 0:
    os.read(bound, 1)
    try: s.accept()
    except OSError: pass
    while True: signal.pause()
s.bind(("", 80)); s.listen(); os.write(told, b"x"); serve(s)
`, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			address := fmt.Sprint("127.0.0.1:", ktest.Port(t))
			a := activate(t, "--config", configureIn(t, folder(t), "copies", fmt.Sprintf("[[socket]]\nlisten = [\"tcp4://%s\"]\ntarget = \"tcp4://:80\"\n[service]\nhandover = \"bind\"\n"+
				"exec = [\"python3\", \"-c\", %q]\n", address, tt.program)))
			for range 3 {
				c, err := net.Dial("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				if answer, err := io.ReadAll(c); string(answer) != "x" {
					t.Errorf("answer %q, %v", answer, err)
				}
				c.Close()
			}
			if n := a.log.count("level=WARN"); n != tt.warns || n != a.log.count("in another process", `handover = \"proxy\"`) {
				t.Errorf("%d warnings", n)
			}
		})
	}
}
