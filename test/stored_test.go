package test

import (
	"fmt"
	"os/exec"
	"testing"

	"activator/internal/ktest"
)

// storing answers one client, stores memory, and ends. It listens itself where it is given no socket.
const storing = `import array, os, socket
given = os.environ.get("LISTEN_FDS", "0") + " " + os.environ.get("LISTEN_FDNAMES", "")
if os.environ["HANDOVER"] == "fds":
    listener = socket.socket(fileno=3)
else:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 8000))
    listener.listen()
client = listener.accept()[0]
client.sendall(given.encode())
client.close()
told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
told.connect(os.environ["NOTIFY_SOCKET"])
told.sendmsg([b"FDSTORE=1\nFDNAME=kept"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [os.memfd_create("state")]))])
`

// What is stored comes behind the sockets, or alone where the program gets these in another way.
func TestStoredWhateverTheHandover(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		ktest.Skip(t, "%v", err)
	}
	for handover, want := range map[string][2]string{
		"fds":   {"1 web", "2 web:kept"},
		"bind":  {"0 ", "1 kept"},
		"proxy": {"0 ", "1 kept"},
	} {
		t.Run(handover, func(t *testing.T) {
			target := "target = \"tcp://127.0.0.1:8000\"\n"
			if handover == "fds" {
				target = ""
			}
			n := ktest.Port(t)
			a := activate(t, "--config", configureIn(t, folder(t), "storing", fmt.Sprintf("[[socket]]\nname = \"web\"\nlisten = [\"tcp://127.0.0.1:%d\"]\n%s[service]\nhandover = %q\nexec = [\"python3\", \"-c\", %q]\n"+
				"environment = { HANDOVER = %q }\nfile_descriptor_store_max = 1\nrestart_delay = \"10ms\"\n", n, target, handover, storing, handover)))
			for i, want := range want {
				a.waitN(i+1, "state=listening") // a proxied client would come to the one that ends
				if said := socat(t, fmt.Sprintf("tcp4:127.0.0.1:%d", n), ""); said != want {
					t.Errorf("run %d is given %q, want %q", i+1, said, want)
				}
			}
		})
	}
}
