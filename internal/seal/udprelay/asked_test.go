package udprelay

import (
	"testing"

	"golang.org/x/sys/unix"
)

// A relay that was told of a datagram and has not looked finds it when it is asked to.
func TestAsk(t *testing.T) {
	for _, network := range []string{"udp4", "unixgram"} {
		t.Run(network, func(t *testing.T) {
			address, from := "127.0.0.1:0", "127.0.0.1:0"
			if network == "unixgram" {
				address, from = own+t.Name(), own+"client of "+t.Name()
			}
			f, host := hostSocket(t, network, address)
			d := openRelay(t, newOwner(t), f, Options{})
			run(t, d)
			inner := service(t, d)
			client := client(t, network, from)
			exchange(t, client, host.LocalAddr(), inner)
			// The event is lost: the host's socket tells of nothing any more.
			lost := unix.EpollEvent{Events: unix.EPOLLET, Fd: hostSlot}
			if err := unix.EpollCtl(d.poll.fd, unix.EPOLL_CTL_MOD, d.host, &lost); err != nil {
				t.Fatal(err)
			}
			ask(t, client, host.LocalAddr(), "the lost one")
			silent(t, inner, "the service")
			for range 3 { // once is enough
				d.AskQueue()
			}
			if text, _ := receive(t, inner); text != "the lost one" {
				t.Errorf("the service sees %q", text)
			}
		})
	}
}
