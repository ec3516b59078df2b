package test

import (
	"fmt"
	"net"
	"testing"
	"time"

	"activator/internal/ktest"
)

// Callers that are killed, or get a signal, while the activator sets an option for them cost the others of the service
// nothing. As root it is asked only of MPTCP.
func TestOptionsOfKilledCallers(t *testing.T) {
	script := `
import os, random, signal, socket, time
c = socket.socket(fileno=3).accept()[0]
for i in range(200):
    child = os.fork()
    if child == 0:
        while True:
            c.setsockopt(6, 18, 5000)
    time.sleep(random.random() / 250)
    os.kill(child, 9)
    os.waitpid(child, 0)
signal.signal(signal.SIGALRM, lambda *a: None)
signal.siginterrupt(signal.SIGALRM, False)
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
for i in range(3000):
    try:
        c.setsockopt(6, 18, i)
    except InterruptedError:
        pass
signal.setitimer(signal.ITIMER_REAL, 0)
c.setsockopt(6, 18, 4321)
c.send(str(c.getsockopt(6, 18)).encode())
`
	for name, options := range map[string]string{"tcp": "", "mptcp": "mptcp = true\n"} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t)
			n := ktest.Port(t)
			a := activate(t, "--config", configureIn(t, dir, "killed", fmt.Sprintf("[[socket]]\nlisten = [\"tcp4://127.0.0.1:%d\"]\n%s"+
				"[service]\nexec = [\"python3\", \"-c\", %q]\n", n, options, script)))
			c, err := net.Dial("tcp4", fmt.Sprint("127.0.0.1:", n))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(waitTimeout))
			said := make([]byte, 4)
			if _, err := c.Read(said); err != nil || string(said) != "4321" {
				t.Errorf("%q, %v", said, err)
			}
			if n := a.log.count("calls not answered"); n > 0 {
				t.Error("the activator has given up")
			}
		})
	}
}
