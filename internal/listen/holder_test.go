package listen

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
)

// A client's own end has the port, and then what is left of the connection when it has ended.
func TestPortOfConnection(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	port := ktest.Port(t)
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}}
	client, err := from.Dial("tcp", server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	accepted, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	refused := func() string {
		s, err := openOne(socketSpec(t, fmt.Sprintf("tcp4://127.0.0.1:%d", port)), Means{})
		if err == nil {
			_ = s.Close()
			return ""
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			t.Fatal(err)
		}
		return err.Error()
	}
	if text, want := refused(), fmt.Sprintf("held by ourselves, pid %d, for a connection to %s", os.Getpid(), server.Addr()); !strings.Contains(text, want) {
		t.Errorf("%q, want %q", text, want)
	}
	// The side that ends first has the port for a while.
	_ = client.Close()
	if _, err := accepted.Read(make([]byte, 1)); err == nil {
		t.Error("it has not ended")
	}
	_ = accepted.Close()
	if text, want := refused(), fmt.Sprintf("held by a connection to %s that has ended", server.Addr()); !strings.Contains(text, want) {
		t.Errorf("%q, want %q", text, want)
	}
}

// A port of those that the kernel gives to clients can be kept from them.
func TestClientPorts(t *testing.T) {
	least, most := clientPorts()
	if least == 0 || most <= least || most > 65535 {
		t.Errorf("%d to %d", least, most)
	}
}
