package proc

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
)

// What is bound is listed as it was bound, and what is connected is not.
func TestListBound(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", "[::]:0"} {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		client, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		packets, err := net.ListenPacket("udp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer packets.Close()
		for protocol, at := range map[string]net.Addr{"tcp": listener.Addr(), "udp": packets.LocalAddr()} {
			if bound := ListBound(os.Getpid(), protocol, 1<<20); !slices.Contains(bound, netip.MustParseAddrPort(at.String())) {
				t.Errorf("%s %v: not in %v", protocol, at, bound)
			}
		}
		if bound := ListBound(os.Getpid(), "tcp", 1<<20); slices.Contains(bound, netip.MustParseAddrPort(client.LocalAddr().String())) {
			t.Errorf("%v is a client", client.LocalAddr())
		}
	}
	if bound := ListBound(1<<30, "tcp", 1); bound != nil {
		t.Errorf("%v of no process", bound)
	}
}

func FuzzBoundLine(f *testing.F) {
	f.Add("   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0")
	f.Add("   0: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 07")
	f.Fuzz(func(t *testing.T, line string) {
		if at, ok := parseBound(line, "tcp"); ok && !at.IsValid() {
			t.Errorf("%q: %v", line, at)
		}
	})
}
