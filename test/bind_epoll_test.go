package test

import (
	"fmt"
	"io"
	"net"
	"testing"

	"activator/internal/ktest"
)

// Event loops put a socket into an epoll, or copy its descriptor, before they bind it. It is served all the same, and they can
// change and take out the entry afterwards.
func TestBindAfterEpoll(t *testing.T) {
	const begin = "import os, select; from socket import *\n"
	for _, tt := range []struct{ name, network, program string }{
		{"edge", "tcp", begin + `
s, e = socket(), select.epoll(); s.setblocking(False)
e.register(s, select.EPOLLIN | select.EPOLLET)
s.bind(("", 80)); s.listen()
for i in range(3):
    assert e.poll() == [(s.fileno(), select.EPOLLIN)]
    c = s.accept()[0]; c.send(b"x"); c.close()
e.modify(s, select.EPOLLIN)
e.poll(); c = s.accept()[0]; c.send(b"x"); c.close()
e.unregister(s)
e.register(s, select.EPOLLIN)
e.poll(); c = s.accept()[0]; c.send(b"x"); c.close()
`},
		{"two epolls and a copy", "tcp", begin + `
s, e, f = socket(), select.epoll(), select.epoll()
d = s.dup()
e.register(s, select.EPOLLIN); f.register(d, select.EPOLLIN)
s.bind(("", 80)); d.listen(); s.close()
for i in range(5):
    assert f.poll() == [(d.fileno(), select.EPOLLIN)] and len(e.poll()) == 1
    c = d.accept()[0]; c.send(b"x"); c.close()
`},
		{"datagrams", "udp", begin + `
s, e = socket(AF_INET, SOCK_DGRAM), select.epoll()
e.register(s, select.EPOLLIN | select.EPOLLET)
s.bind(("", 80))
for i in range(5):
    e.poll(); data, to = s.recvfrom(10); s.sendto(b"x", to)
`},
		{"path", "unix", begin + `
s, e = socket(AF_UNIX), select.epoll()
e.register(s, select.EPOLLIN | select.EPOLLET)
s.bind("/run/s"); s.listen()
for i in range(5):
    e.poll(); c = s.accept()[0]; c.send(b"x"); c.close()
`},
		{"a copy in another number, and a child's epoll", "tcp", begin + `
s, e = socket(), select.epoll()
os.dup2(s.fileno(), 50)
e.register(50, select.EPOLLIN)
s.bind(("", 80)); s.listen()
if os.fork() == 0:
    while True:
        assert e.poll() == [(50, select.EPOLLIN)]
        c = socket(fileno=os.dup(50)).accept()[0]; c.send(b"x"); c.close()
os.wait()
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := folder(t)
			address, target := fmt.Sprint("127.0.0.1:", ktest.Port(t)), tt.network+"://:80"
			if tt.network == "unix" {
				address, target = dir+"/s", "unix:///run/s"
			}
			a := activate(t, "--config", configureIn(t, dir, "loop", fmt.Sprintf("[[socket]]\nlisten = [\"%s://%s\"]\ntarget = %q\n[service]\nhandover = \"bind\"\nexec = [\"python3\", \"-c\", %q]\n", tt.network, address, target, tt.program)))
			for range 5 {
				c, err := net.Dial(tt.network, address)
				if err != nil {
					t.Fatal(err)
				}
				if tt.network == "udp" {
					_, err = c.Write([]byte("?"))
				}
				answer := make([]byte, 1)
				if _, e := io.ReadFull(c, answer); err != nil || e != nil || answer[0] != 'x' {
					t.Fatalf("%q, %v, %v", answer, err, e)
				}
				c.Close()
			}
			if n := a.log.count("level=WARN"); n > 0 {
				t.Errorf("%d warnings", n)
			}
		})
	}
}
