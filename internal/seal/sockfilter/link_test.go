package sockfilter

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
	"activator/internal/spec"
)

// expireAfter has the sockets of programs that are opened now forget their clients sooner.
func expireAfter(t *testing.T, d time.Duration) {
	before := expire
	expire = d
	t.Cleanup(func() { expire = before })
}

// A client that was silent for long is not answered, until it asks again. An answer counts as a word of its own.
func TestExpire(t *testing.T) {
	const short = 200 * time.Millisecond // the clock ticks every 10 ms at most
	expireAfter(t, short)
	p := open(t, 0)
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			onWire(t, func(w *wire) {
				fd := fdOf(t, sealed(t, p, f.kind))
				port := w.bound(fd, f.kind)
				send := func() error { return unix.Sendto(fd, []byte("x"), 0, sockaddr(f.client, f.mapped)) }
				for range 2 {
					w.heard(fd, port, f.client)
					began, last := time.Now(), time.Now()
					for time.Since(began) < 2*short {
						<-time.After(short / 8)
						err := send()
						if err != nil && time.Since(last) < short/2 {
							t.Fatalf("%v after it was heard, and %v after it was answered: %v", time.Since(began), time.Since(last), err)
						}
						if err != nil { // we were late
							w.heard(fd, port, f.client)
							began = time.Now()
						}
						last = time.Now()
					}
					<-time.After(short + short/4)
					for name, send := range map[string]func() error{
						"sendto":  send,
						"connect": func() error { return unix.Connect(fd, sockaddr(f.client, f.mapped)) },
					} {
						if err := send(); !errors.Is(err, unix.EPERM) {
							t.Errorf("%s: %v, want %v", name, err, unix.EPERM)
						}
					}
				}
			})
		})
	}
}

// The address of a link is a client on the interface alone by which it was heard.
func TestLinks(t *testing.T) {
	p := open(t, 0)
	there := netip.MustParseAddrPort("[fe80::77]:5077")
	onWire(t, func(w *wire) {
		defer unix.Close(w.addLink())
		fd, plain := fdOf(t, sealed(t, p, udp6())), w.unsealed(udp6())
		defer unix.Close(plain)
		for _, socket := range []int{fd, plain} {
			w.heard(socket, w.bound(socket, udp6()), there)
		}
		for link, want := range map[string]error{"tap0": nil, "tap1": unix.EPERM} {
			to := &unix.SockaddrInet6{Port: int(there.Port()), Addr: there.Addr().As16(), ZoneId: w.indexOf(link)}
			if err := unix.Sendto(fd, []byte("payload"), 0, to); !errors.Is(err, want) {
				t.Errorf("by %s: %v, want %v", link, err, want)
			}
			if err := unix.Sendto(plain, []byte("payload"), 0, to); err != nil {
				t.Errorf("not sealed, by %s: %v", link, err)
			}
		}
		// The same with a connection, which sends nothing yet.
		to := &unix.SockaddrInet6{Port: int(there.Port()), Addr: there.Addr().As16(), ZoneId: w.indexOf("tap1")}
		if err := connectAndSend(fd, to); !errors.Is(err, unix.EPERM) {
			t.Errorf("connected by tap1: %v, want %v", err, unix.EPERM)
		}
		_ = ktest.Dissolve(fd)
		stranger := &unix.SockaddrInet6{Port: 5078, Addr: there.Addr().As16(), ZoneId: w.indexOf("tap0")}
		if err := unix.Sendto(fd, []byte("payload"), 0, stranger); !errors.Is(err, unix.EPERM) {
			t.Errorf("another one on the link: %v, want %v", err, unix.EPERM)
		}
	})
}

// So is 169.254.0.0/16, whichever family the socket is of.
func TestLinks4(t *testing.T) {
	p := open(t, 0)
	there := netip.MustParseAddrPort("169.254.7.7:5077")
	for _, f := range []family{{"v4", udp4(), false, there, other4}, {"mapped", udp6(), true, there, other4}} {
		t.Run(f.name, func(t *testing.T) {
			onWire(t, func(w *wire) {
				defer unix.Close(w.addLink())
				fd := fdOf(t, sealed(t, p, f.kind))
				w.heard(fd, w.bound(fd, f.kind), there)
				for link, want := range map[string]error{"tap0": nil, "tap1": unix.EPERM} {
					err := unix.Sendmsg(fd, []byte("payload"), steer4(w.indexOf(link), netip.IPv4Unspecified()), sockaddr(there, f.mapped), 0)
					if !errors.Is(err, want) {
						t.Errorf("by %s: %v, want %v", link, err, want)
					}
				}
			})
		})
	}
}

// What is of the loopback leaves by lo alone, whatever way the sender chooses, where the kernel would let it
// leave (route_localnet, of ip-sysctl).
func TestLoopbackStays(t *testing.T) {
	p := open(t, 0)
	onWire(t, func(w *wire) {
		w.must("route_localnet", os.WriteFile("/proc/sys/net/ipv4/conf/tap0/route_localnet", []byte("1"), 0))
		fd, plain := fdOf(t, sealed(t, p, udp4())), w.unsealed(udp4())
		defer unix.Close(plain)
		port := w.bound(fd, udp4())
		w.bound(plain, udp4())
		client := w.unsealed(udp4())
		defer unix.Close(client)
		w.must("bind", unix.Bind(client, sockaddr(netip.MustParseAddrPort("127.0.0.7:5077"), false)))
		w.must("ask", unix.Sendto(client, []byte("x"), 0, sockaddr(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), false)))
		var buffer [8]byte
		_, there, err := unix.Recvfrom(fd, buffer[:], 0)
		w.must("receive", err)
		w.must("answer", unix.Sendto(fd, []byte("x"), 0, there))
		for _, from := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), host4} {
			way := steer4(w.indexOf("tap0"), from)
			if err := unix.Sendmsg(fd, []byte("payload"), way, there, 0); !errors.Is(err, unix.EPERM) {
				t.Errorf("from %v by tap0: %v, want %v", from, err, unix.EPERM)
			}
			w.must("not sealed", unix.Sendmsg(plain, []byte("payload"), way, there, 0))
		}
		if sent := w.sent(); sent[netip.MustParseAddr("127.0.0.7")] != 2 {
			t.Errorf("on the wire: %v, want what was not sealed", sent)
		}
	})
}

// steer4 is IP_PKTINFO: by which interface, and from which address.
func steer4(link uint32, from netip.Addr) []byte {
	info := binary.NativeEndian.AppendUint32(nil, link)
	info = append(info, from.AsSlice()...)
	return control(unix.IPPROTO_IP, unix.IP_PKTINFO, append(info, 0, 0, 0, 0))
}

// unsealed is a socket like any other. The caller closes it.
func (w *wire) unsealed(k spec.Kind) int {
	fd, err := unix.Socket(k.Family, k.Type|unix.SOCK_CLOEXEC, 0)
	w.must("socket", err)
	return fd
}
