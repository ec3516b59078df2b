package escape

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
)

// world is the host around one run of one probe: witnesses in its network, a file
// with a secret, a folder.
type world struct {
	t       *testing.T
	dir     string // short, since a unix socket's path may have 107 bytes
	nonce   string // what witnesses are to see
	secret  string // what the intruder is not to know
	file    string // with the secret
	binary  string // the intruder's own copy of the intruder
	service string // what the activator calls it
	witness map[string]string
	*ears

	port, port6                            string
	tcp4, tcp6, udp4, udp6, unix, unixgram string // the service's addresses
	abstractgram, fifo                     string // of some probes
	clients                                []net.Conn
	victim                                 *victim
	terminal                               *terminal // nil but for the probe that needs one
	output                                 outlet
}

// ears is what the witnesses hear.
type ears struct {
	mu    sync.Mutex
	heard map[string]string // nonce -> by which witness
	more  chan struct{}     // closed and made anew with each
}

func (e *ears) hear(line, by string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.heard[strings.TrimSpace(line)] = by
	close(e.more)
	e.more = make(chan struct{})
}

// by is the witness that heard the nonce, "" if none did.
func (e *ears) by(nonce string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.heard[nonce]
}

// await waits until a witness hears a line, and reports whether one did.
func (e *ears) await(line string, limit time.Duration) bool {
	for end := time.After(limit); ; {
		e.mu.Lock()
		by, more := e.heard[line], e.more
		e.mu.Unlock()
		if by != "" {
			return true
		}
		select {
		case <-more:
		case <-end:
			return false
		}
	}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "esc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &world{t: t, dir: dir, nonce: rand.Text(), secret: (rand.Text() + rand.Text())[:32],
		file: filepath.Join(dir, "secret"), binary: filepath.Join(dir, "intruder"), service: "intruder",
		witness: make(map[string]string), ears: &ears{heard: make(map[string]string), more: make(chan struct{})}}
	text, err := os.ReadFile(program(t, "intruder"))
	if err != nil {
		t.Fatal(err)
	}
	// A child of another test that is forked meanwhile would have the program open
	// for writing until its exec, and it could not be started.
	syscall.ForkLock.RLock()
	err = errors.Join(os.Chmod(dir, 0o755), os.WriteFile(w.file, []byte(w.secret+"\n"), 0o644), os.WriteFile(w.binary, text, 0o755))
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	w.listen()
	w.unix, w.unixgram = filepath.Join(dir, "s"), filepath.Join(dir, "g")
	w.abstractgram, w.fifo = "@"+w.nonce+"a", filepath.Join(dir, "p")
	return w
}

// listen starts the witnesses.
func (w *world) listen() {
	for name, address := range map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0", "unix": w.dir + "/w", "abstract": "@" + w.nonce + "s"} {
		network := strings.Replace(name, "abstract", "unix", 1)
		l, err := new(net.ListenConfig).Listen(context.Background(), network, address)
		if err != nil {
			w.t.Fatal(err)
		}
		w.witness[name] = l.Addr().String()
		w.serveUntilEnd(l, func() { w.answer(l, name) })
	}
	for name, address := range map[string]string{"udp4": "127.0.0.1:0", "udp6": "[::1]:0", "unixgram": w.dir + "/wg", "abstractgram": "@" + w.nonce + "g"} {
		network := strings.Replace(name, "abstractgram", "unixgram", 1)
		c, err := new(net.ListenConfig).ListenPacket(context.Background(), network, address)
		if err != nil {
			w.t.Fatal(err)
		}
		w.witness[name] = c.LocalAddr().String()
		w.serveUntilEnd(c, func() { w.note(c, name) })
	}
}

// serveUntilEnd runs a goroutine that ends when c is closed, which is at the
// test's end.
func (w *world) serveUntilEnd(c interface{ Close() error }, run func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		run()
	}()
	w.t.Cleanup(func() {
		c.Close()
		<-done
	})
}

// answer reads a line from each client and answers with the secret.
func (w *world) answer(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_ = c.SetDeadline(time.Now().Add(waitTimeout))
		line, err := bufio.NewReader(c).ReadString('\n')
		if err == nil {
			w.hear(line, name)
			_, _ = c.Write([]byte(w.secret + "\n"))
		}
		c.Close()
	}
}

func (w *world) note(c net.PacketConn, name string) {
	buffer := make([]byte, 2048)
	for {
		n, _, err := c.ReadFrom(buffer)
		if err != nil {
			return
		}
		w.hear(string(buffer[:n]), name)
	}
}

// sniff hears what passes lo towards 127.0.0.77, for every receiver: the witness of
// a source route. It needs root.
func (w *world) sniff() {
	if os.Getuid() != 0 {
		return
	}
	const ip = 0x0008 // ETH_P_IP in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, ip)
	if err != nil {
		return
	}
	// What else passes lo would fill the socket's buffer.
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 16}, // the destination
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 127<<24 | 77, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 4096},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}); err != nil {
		w.t.Errorf("sniffer: %v", err)
	}
	w.witness["sniffer"] = "127.0.0.77:9" // no program's port
	f := os.NewFile(uintptr(fd), "sniffer")
	w.serveUntilEnd(f, func() {
		packet := make([]byte, 4096)
		for {
			n, err := f.Read(packet)
			if err != nil {
				return
			}
			if n <= 20 || !bytes.Equal(packet[16:20], []byte{127, 0, 0, 77}) {
				continue
			}
			if bytes.Contains(packet[:n], []byte(w.nonce)) {
				w.hear(w.nonce, "sniffer")
			} else if n > 28 { // a marker, behind the headers of IP and UDP
				w.hear(string(packet[28:n]), "sniffer")
			}
		}
	})
}

// handle names the file as the kernel does.
func (w *world) handle() (int32, []byte) {
	h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, w.file, 0)
	if err != nil {
		return 0, nil // the file system has none
	}
	return h.Type(), h.Bytes()
}

// hostInterfaces are those without loopback.
func hostInterfaces(t *testing.T) (names []string) {
	t.Helper()
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		if i.Flags&net.FlagLoopback == 0 {
			names = append(names, i.Name)
		}
	}
	return names
}

// connectClients makes the clients that an intruder may misuse: a connection of
// each kind, a datagram of each kind.
func (w *world) connectClients() error {
	for _, to := range [][2]string{{"tcp4", w.tcp4}, {"tcp6", w.tcp6}, {"udp4", w.udp4}, {"udp6", w.udp6}} {
		c, err := net.DialTimeout(to[0], to[1], waitTimeout)
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { c.Close() })
		w.clients = append(w.clients, c)
		if strings.HasPrefix(to[0], "udp") {
			_, _ = c.Write([]byte("hello\n"))
		}
	}
	return nil
}

// choosePorts gives the service addresses. Those of IPv6 are wildcards, as most
// are: such a socket reaches IPv4 too.
func (w *world) choosePorts() {
	w.port, w.port6 = strconv.Itoa(ktest.Port(w.t)), strconv.Itoa(ktest.Port(w.t))
	w.tcp4, w.udp4, w.tcp6, w.udp6 = "127.0.0.1:"+w.port, "127.0.0.1:"+w.port, "[::1]:"+w.port6, "[::1]:"+w.port6
}

// victim is a process of the host, see the intruder's part of that name.
type victim struct {
	where   string // pid, address, descriptor
	in      *os.File
	said    chan string
	process *os.Process
}

// startVictim starts it once.
func (w *world) startVictim() (*victim, error) {
	if w.victim != nil {
		return w.victim, nil
	}
	inR, inW, err1 := os.Pipe()
	outR, outW, err2 := os.Pipe()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	binary := program(w.t, "intruder")
	process, err := os.StartProcess(binary, []string{"intruder", "victim", w.file, w.secret}, &os.ProcAttr{Files: []*os.File{inR, outW, os.Stderr}})
	inR.Close()
	outW.Close()
	if err != nil {
		return nil, err
	}
	v := &victim{in: inW, said: make(chan string, 16), process: process}
	w.serveUntilEnd(outR, func() {
		for lines := bufio.NewScanner(outR); lines.Scan(); {
			v.said <- lines.Text()
		}
		close(v.said)
	})
	w.t.Cleanup(func() {
		inW.Close()
		_ = process.Kill()
		_, _ = process.Wait()
	})
	v.where = <-v.said
	w.victim = v
	return v, nil
}

// connect has the victim be a client of the service.
func (v *victim) connect(path string) error {
	if _, err := v.in.WriteString(path + "\n"); err != nil {
		return err
	}
	if answer := <-v.said; answer != "connected <nil>" {
		return errors.New(answer)
	}
	return nil
}

// signalled reports whether it got a signal. Where the kernel said so it may take
// a moment.
func (v *victim) signalled(claimed bool) bool {
	wait := time.Duration(0)
	if claimed {
		wait = waitTimeout
	}
	select {
	case said := <-v.said:
		return said == "signal"
	case <-time.After(wait):
		return false
	}
}

// terminal is a pseudo terminal; its slave is the intruder's output.
type terminal struct{ master, slave *os.File }

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatalf("unlock the terminal: %v", err)
	}
	fd, err := otherEnd(int(master.Fd()))
	if err != nil {
		t.Fatalf("the terminal's other end: %v", err)
	}
	slave := os.NewFile(uintptr(fd), "pts")
	t.Cleanup(func() { slave.Close() })
	return &terminal{master, slave}
}

func otherEnd(master int) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// read reads what has been typed, if anything has.
func (e *terminal) read() string {
	fd := int(e.slave.Fd())
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, 1000); err != nil || n == 0 {
		return ""
	}
	text := make([]byte, 256)
	n, err := unix.Read(fd, text)
	if err != nil {
		return ""
	}
	return string(text[:n])
}
