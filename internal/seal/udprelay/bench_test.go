package udprelay

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockaddr"
	"activator/internal/netns"
)

// BenchmarkUDPEcho compares an echo through the relay with the same echo
// without, alternately. The echo and the clients are processes of their own, as a
// service is. "ratio" is relayed/direct of the answers per second.
func BenchmarkUDPEcho(b *testing.B) {
	for _, row := range []struct{ clients, window, size int }{{1, 1, 64}, {1, 32, 64}, {1, 32, 1200}, {16, 8, 64}, {1000, 1, 64}} {
		b.Run(fmt.Sprintf("clients=%d/window=%d/size=%d", row.clients, row.window, row.size), func(b *testing.B) {
			m := newOwner(b)
			var sum, cpu [2]float64
			for range b.N {
				for i, relayed := range []bool{false, true} {
					rate, used := measure(b, m, relayed, row.clients, row.window, row.size)
					sum[i] += rate
					cpu[i] += used
				}
			}
			b.ReportMetric(cpu[1]/float64(b.N), "relay-µs/answer")
			b.ReportMetric(sum[0]/float64(b.N), "direct/s")
			b.ReportMetric(sum[1]/float64(b.N), "relayed/s")
			b.ReportMetric(sum[1]/sum[0], "ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkOpen is a relay, of an owner that has made one.
func BenchmarkOpen(b *testing.B) {
	m := newOwner(b)
	host, _ := hostSocket(b, "udp", "[::]:0")
	openRelay(b, m, host, Options{}).Close()
	for b.Loop() {
		d, err := OpenSocketRelay(m, host, Options{})
		if err != nil {
			b.Fatal(err)
		}
		_ = d.Close()
	}
}

// BenchmarkOwner is a relay with a user namespace of its own.
func BenchmarkOwner(b *testing.B) {
	host, _ := hostSocket(b, "udp4", "127.0.0.1:0")
	for b.Loop() {
		m := new(netns.Owner)
		d, err := OpenSocketRelay(m, host, Options{})
		if err != nil {
			b.Fatal(err)
		}
		_ = d.Close()
		_ = m.Close()
	}
}

// BenchmarkNewClient is the first datagram of a client.
func BenchmarkNewClient(b *testing.B) {
	m := newOwner(b)
	host, _ := hostSocket(b, "udp4", "127.0.0.1:0")
	d := openRelay(b, m, host, Options{})
	for n := 0; b.Loop(); n++ {
		name := sockaddr.Inet(netip.AddrFrom4([4]byte{203, 0, byte(n >> 8), byte(n)}), uint16(1+n>>16), 0)
		if err := openUDP(d, udpOf(d).newFlow(&name, nil)); err != nil {
			b.Fatal(err)
		}
		if len(d.flows.byClient) > 4000 {
			b.StopTimer()
			for d.flows.oldestFlow() != nil {
				d.dropFlow(d.flows.oldestFlow())
			}
			b.StartTimer()
		}
	}
}

// BenchmarkExchange is a question and its answer through a relay, without the waits.
func BenchmarkExchange(b *testing.B) {
	for name, address := range map[string]string{"connected": "127.0.0.1:0", "wildcard": "0.0.0.0:0"} {
		b.Run(name, func(b *testing.B) {
			f, host := hostSocket(b, "udp4", address)
			d := openRelay(b, newOwner(b), f, Options{})
			c, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: host.LocalAddr().(*net.UDPAddr).Port})
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			fd := descriptor(b, c)
			var buf [64]byte
			var name sockaddr.Raw
			began := ownTime()
			for b.Loop() {
				if n, err := unix.Write(fd, buf[:10]); n != 10 {
					b.Fatal(err)
				}
				d.now = time.Since(d.start)
				d.hostReady = true
				if _, err := d.carryRound(); err != nil {
					b.Fatal(err)
				}
				if n, err := echoOne(d.socket.fd, buf[:], &name); n != 10 {
					b.Fatal(n, err)
				}
				d.flows.wakeFlow(d.flows.oldestFlow())
				if _, err := d.carryRound(); err != nil {
					b.Fatal(err)
				}
				d.carrier.prepareWait()
				d.poll.armDeadline(d.nextAlarm(), d.start.Add(d.now))
				if n, err := unix.Read(fd, buf[:]); n != 10 {
					b.Fatal(n, err)
				}
			}
			b.ReportMetric(float64((ownTime()-began).Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}

const measureTime = 500 * time.Millisecond

func measure(b *testing.B, m *netns.Owner, relayed bool, clients, window, size int) (rate, cpu float64) {
	host, conn := hostSocket(b, "udp4", "127.0.0.1:0")
	_ = conn.Close() // else it is in the runtime's poller, which each datagram then wakes
	given := host
	stop := func() {}
	if relayed {
		d := openRelay(b, m, host, Options{})
		stop = run(b, d)
		given = d.File()
	}
	echo := exec.Command("/proc/self/exe", "helper", "echo")
	echo.ExtraFiles = []*os.File{given}
	echo.Stderr = os.Stderr
	if err := echo.Start(); err != nil {
		b.Fatal(err)
	}
	port := conn.LocalAddr().(*net.UDPAddr).Port
	load := exec.Command("/proc/self/exe", "helper", "load", strconv.Itoa(port), strconv.Itoa(clients), strconv.Itoa(window), strconv.Itoa(size))
	load.Stderr = os.Stderr
	before := ownTime()
	text, err := load.Output()
	after := ownTime()
	_ = echo.Process.Kill()
	_ = echo.Wait()
	stop()
	if err != nil {
		b.Fatal(err)
	}
	if rate, err = strconv.ParseFloat(string(text), 64); err != nil {
		b.Fatal(err)
	}
	return rate, float64((after - before).Microseconds()) / (rate * measureTime.Seconds())
}

// ownTime is the processor time of the relay: this process does nothing else.
func ownTime() time.Duration {
	var r unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// helper is the echo or the load of the benchmark, in a process of its own.
func helper(args []string) {
	switch args[0] {
	case "echo":
		echo(3)
	case "client":
		askOnce(args[1:])
	case "parent":
		parent()
	case "load":
		numbers := make([]int, 4)
		for i := range numbers {
			numbers[i], _ = strconv.Atoi(args[1+i])
		}
		load(numbers[0], numbers[1], numbers[2], numbers[3])
	}
	os.Exit(0)
}

// echo answers as a simple service does: one at a time, blocking.
func echo(fd int) {
	_ = unix.SetNonblock(fd, false)
	b := make([]byte, 1<<16)
	a := sockaddr.Raw{}
	for {
		n, err := echoOne(fd, b, &a)
		if err != nil {
			fmt.Fprintln(os.Stderr, "echo:", n, err)
			os.Exit(1)
		}
	}
}

// load keeps window questions of each client on their way and prints the answers
// per second.
func load(port, clients, window, size int) {
	fds := make([]unix.PollFd, clients)
	for i := range fds {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0)
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "load:", err)
			os.Exit(1)
		}
		fds[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	}
	text := make([]byte, size)
	room := make([]byte, 1<<16)
	for range window {
		for i := range fds {
			_, _ = unix.Write(int(fds[i].Fd), text)
		}
	}
	answers := 0
	begin := time.Now()
	for time.Since(begin) < measureTime {
		n, _ := unix.Poll(fds, 100)
		if n == 0 {
			for i := range fds { // some were lost: begin anew
				_, _ = unix.Write(int(fds[i].Fd), text)
			}
		}
		for i := range fds {
			if fds[i].Revents == 0 {
				continue
			}
			for {
				n, err := unix.Read(int(fds[i].Fd), room)
				if err != nil || n < 0 {
					break
				}
				answers++
				_, _ = unix.Write(int(fds[i].Fd), text)
			}
		}
	}
	fmt.Print(float64(answers) / time.Since(begin).Seconds())
}
