package service

import (
	"fmt"
	"io"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/fdpass"
	"activator/internal/ktest"
	"activator/internal/notify"
	"activator/internal/spec"
)

// store sends descriptors with a message to NOTIFY_SOCKET.
func store(message string, fds ...int) {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Sendmsg(socket, []byte(message), unix.UnixRights(fds...), &unix.SockaddrUnix{Name: os.Getenv("NOTIFY_SOCKET")}, 0)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(9)
	}
}

// leaveOrAnswer is a program that leaves its first client, and what it knows, to the next instance, which
// answers the client.
func leaveOrAnswer(inherited []fdpass.Inherited) {
	kept := make(map[string]*os.File)
	for _, i := range inherited {
		kept[i.Name] = i.File
	}
	if client := kept["client"]; client != nil {
		text, err := io.ReadAll(io.NewSectionReader(kept["stored"], 0, 100))
		fmt.Fprintf(client, "%d: %s %v\n", len(inherited), text, err)
		_ = notify.SendState("FDSTOREREMOVE=1\nFDNAME=client")
		_ = unix.Shutdown(int(client.Fd()), unix.SHUT_RDWR)
		ktest.Hang()
	}
	client, _, err := unix.Accept(int(kept["test"].Fd()))
	memory, failed := unix.MemfdCreate("state", 0)
	if err != nil || failed != nil {
		os.Exit(9)
	}
	_, _ = unix.Write(memory, []byte("known"))
	store("FDSTORE=1\nFDNAME=client", client)
	store("FDSTORE=1", memory)
	store("FDSTORE=1\nFDNAME=test", int(kept["test"].Fd()))
	os.Exit(0)
}

// What an instance leaves is given to the next one behind the sockets, also what it said with its last
// breath. A client among it wakes the service like any other; the service's own socket is not kept.
func TestStored(t *testing.T) {
	for _, init := range []bool{false, true} {
		s := &stand{t: t, log: make(chan string, 10000), address: fmt.Sprintf("tcp://127.0.0.1:%d", ktest.Port(t))}
		s.up("store", func(service *spec.Service) { service.StoreMax, service.Sandbox.Init = 3, init })
		c, err := net.Dial("tcp", s.address[len("tcp://"):])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if text, err := io.ReadAll(c); string(text) != "3: known <nil>\n" || err != nil {
			t.Errorf("answer %q, %v", text, err)
		}
		s.stop()
		s.await("not kept for the next instance", "name=test")
		s.await("stored descriptors closed", "descriptors=1")
	}
}
