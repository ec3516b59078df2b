package udprelay

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"activator/internal/kernel/sockaddr"

	"golang.org/x/sys/unix"
)

// TestUDPTakesNothingOfItsOwn: what a service sends to its relay socket, whatever address it gives as its own,
// is not there for the next instance; and what clients send still is, in one piece or many.
func TestUDPTakesNothingOfItsOwn(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"} {
		t.Run(address, func(t *testing.T) {
			f, host := hostSocket(t, "udp", address)
			d := openRelay(t, newOwner(t), f, Options{})
			stop := run(t, d)
			inner := service(t, d)
			to := *host.LocalAddr().(*net.UDPAddr)
			network := "udp4"
			if to.IP.IsUnspecified() {
				to.IP = net.IPv4(127, 0, 0, 1)
			} else if to.IP.To4() == nil {
				network = "udp6"
			}
			from := to
			from.Port = 0
			c := client(t, network, from.String())
			for _, ip := range []netip.Addr{{}, netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("127.0.0.7"), netip.MustParseAddr("2001:db8::9")} {
				var ctl []byte
				if four := network == "udp4"; ip.IsValid() && ip.Is4() == four && d.family == unix.AF_INET {
					ctl = appendFrom4(nil, ip)
				} else if ip.IsValid() && d.family == unix.AF_INET6 && (ip.Is6() || four) {
					ctl = appendFrom6(nil, ip, 0)
				}
				name := sockaddr.Inet(to.AddrPort().Addr().Unmap(), uint16(to.Port), sockaddr.Loopback)
				if d.family == unix.AF_INET6 {
					name = sockaddr.Inet(netip.AddrFrom16(to.AddrPort().Addr().As16()), uint16(to.Port), sockaddr.Loopback)
				}
				err := sendUnix(d.socket.fd, []byte("poison"), name.Bytes(), ctl)
				t.Logf("from %v: %v", ip, err)
			}
			exchange(t, c, &to, inner)
			for range 5 { // one message on its way inside
				ask(t, c, &to, strings.Repeat("x", 1000))
			}
			for range 5 {
				if text, _ := receive(t, inner); text != strings.Repeat("x", 1000) {
					t.Errorf("it reads %q", text)
				}
			}
			stop()
			silent(t, inner, "the next instance")
		})
	}
}

// TestUnixRefilled: what a service sends to its relay socket is seen when it has ended, wherever in the queue,
// and is not among what the next one has of the old socket.
func TestUnixRefilled(t *testing.T) {
	for name, at := range map[string][3]string{
		"alone":             {"poison"},
		"behind a client's": {"", "question", "poison"},
		"before a client's": {"poison", "question"},
		"empty":             {"-"},
	} {
		t.Run(name, func(t *testing.T) {
			f, host := hostSocket(t, "unixgram", own+"refilled-"+fmt.Sprint(len(at[0]), len(at[1]), len(at[2])))
			var u Undelivered
			d := openRelay(t, newOwner(t), f, Options{Undelivered: &u})
			run(t, d)
			inner := service(t, d)
			c := client(t, "unixgram", own+"refilled-client")
			exchange(t, c, host.LocalAddr(), inner)
			if d.Refilled() {
				t.Fatal("an empty queue is refilled")
			}
			for _, text := range at {
				switch text {
				case "":
				case "question":
					n := d.Carried()
					ask(t, c, host.LocalAddr(), text)
					eventually(t, "it is carried", func() bool { return d.Carried() > n && isReadable(d.socket.fd) })
					if name == "behind a client's" && d.Refilled() {
						t.Error("a client's is its own")
					}
				default:
					ask(t, inner, host.LocalAddr(), strings.Trim(text, "-"))
				}
			}
			for range 2 {
				if !d.Refilled() {
					t.Error("it is not seen")
				}
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			all := u.takeAll()
			if want := len(at[1]) / len("question"); len(all) != want || want == 1 && string(all[0].data) != "question" {
				t.Errorf("%d are left: %+v", len(all), all)
			}
		})
	}
}
