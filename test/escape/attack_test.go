package escape

import (
	"bufio"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"activator/test/escape/wire"

	"golang.org/x/sys/unix"

	"activator/internal/fdpass"
	"activator/internal/kernel/fd"
)

// attack runs a probe in a world of its own and finds out what it achieved: the
// witnesses' word counts, not the intruder's.
func attack(t *testing.T, c column, p wire.Probe) wire.Result {
	t.Helper()
	if strings.HasPrefix(p.Name, "udp-link") && canMakeLinks() {
		return attackOnLinks(t, c, p)
	}
	return attackHere(t, c, p, func(*world) {})
}

// attackHere is attack in the network of the calling thread; prepare has its say before the clients come.
func attackHere(t *testing.T, c column, p wire.Probe, prepare func(*world)) wire.Result {
	t.Helper()
	w := newWorld(t)
	if strings.HasPrefix(p.Name, "tiocsti") {
		w.terminal = newTerminal(t)
	}
	w.openOutput(p.Name)
	if p.Name == "udp-source-route" {
		w.sniff()
	}
	s := c.start(t, w, p)
	prepare(w)
	control := w.dial(s)
	defer control.Close()
	if p.Witness != wire.WitnessNext {
		if err := w.connectClients(); err != nil {
			t.Fatal(err)
		}
	}
	o := &operator{w: w, s: s, control: control, lines: bufio.NewReader(control), probe: p}
	r, err := o.run(w.request(p))
	if err != nil {
		t.Fatalf("the intruder does not answer: %v\n%s", err, s.output())
	}
	return w.judge(o, r)
}

func (w *world) request(p wire.Probe) wire.Request {
	kind, handle := w.handle()
	return wire.Request{Probe: p.Name, Nonce: w.nonce, Witness: w.witness, File: w.file, HandleType: kind, Handle: handle,
		Interfaces: hostInterfaces(w.t), Key: "intruder-" + w.nonce, Source: "127.0.0.1"}
}

// dial connects to the service's unix socket.
func (w *world) dial(s stage) *net.UnixConn {
	w.t.Helper()
	s.next()
	c, err := net.Dial("unix", w.unix)
	if err != nil {
		w.t.Fatalf("%v\n%s", err, s.output())
	}
	_ = c.SetDeadline(time.Now().Add(waitTimeout))
	return c.(*net.UnixConn)
}

// judge hears the witness of the probe.
func (w *world) judge(o *operator, r wire.Result) wire.Result {
	claimed := r.Achieved
	switch o.probe.Witness {
	case wire.WitnessNonce:
		r.Achieved = w.reached(o, claimed)
		if claimed && !r.Achieved {
			r.How += ", but it reached no witness"
		}
	case wire.WitnessSecret:
		r.Achieved = strings.HasPrefix(r.Proof, w.secret)
		if claimed && !r.Achieved {
			r.How += ", but not the secret"
		}
	case wire.WitnessNext:
		r = w.follow(o, r)
	case wire.WitnessHost:
		r = w.look(o, r)
	}
	return r
}

// follow is a client of the next instance.
func (w *world) follow(o *operator, r wire.Result) wire.Result {
	o.control.Close()
	ways := map[string]string{"poison-pacing": "tcp4 bulk", "poison-linger": "tcp4 cut", "poison-backlog": "tcp4 backlog", "poison-rcvbuf": "udp4 burst", "poison-peek-off": "udp4 peek", "poison-filter-high-bits": "udp4",
		"queue-linger": "tcp4 queued cut", "queue-user-timeout": "tcp4 queued late", "queue-receive-timeout": "tcp4 queued plain", "queue-send-buffer": "tcp4 queued plain", "queue-receive-buffer": "tcp4 queued plain"}
	way := ways[o.probe.Name]
	switch {
	case o.probe.Name == "poison-membership":
		groups, err := os.ReadFile("/proc/net/igmp")
		if err != nil {
			w.t.Fatal(err)
		}
		o.s.ended()
		r.Achieved = strings.Contains(string(groups), "4D4D4DEF")
		return r
	case way != "":
	case strings.HasPrefix(o.probe.Name, "refill-"), o.probe.Name == "poison-fifo-mode":
		return w.followRefill(o, r)
	case strings.HasSuffix(o.probe.Name, "unixgram"):
		way = "unixgram"
	case strings.HasSuffix(o.probe.Name, "udp"):
		way = "udp4"
	default:
		way = "tcp4"
	}
	o.s.ended()
	served, how := w.serve(o.s, way, o.queued)
	if r.Achieved && served {
		r.How += ", but the next instance serves"
	}
	if r.Achieved = !served; !served {
		r.How += "; the next instance: " + how
	}
	return r
}

// look finds out what happened to the host.
func (w *world) look(o *operator, r wire.Result) wire.Result {
	claimed := r.Achieved
	r.Achieved = false
	switch o.probe.Name {
	case "signal", "peer-signal", "pidfd-signal":
		r.Achieved = w.victim != nil && w.victim.signalled(claimed)
	case "self-exe":
		now, err := os.ReadFile(w.binary)
		then, err2 := os.ReadFile(program(w.t, "intruder"))
		if err := errors.Join(err, err2); err != nil {
			w.t.Fatal(err)
		}
		r.Achieved = string(now) != string(then)
	case "write-host":
		for _, dir := range []string{"/usr/bin", "/usr", "/etc", "/", w.dir} {
			if os.Remove(filepath.Join(dir, "intruder-"+w.nonce)) == nil {
				r.Achieved = true
			}
		}
	case "output-truncate", "output-overwrite", "output-fifo":
		r.Achieved = w.output.harmed()
	case "port-tcp", "port-tcp6", "port-udp", "port-udp6":
		r.Achieved = o.stolen
	case "tiocsti", "tiocsti-high-bits":
		r.Achieved = o.typed == w.nonce+"\n"
	case "outlive-child", "outlive-exec":
		r.Achieved = o.survived
		r.How = map[bool]string{true: "answers after the starter is gone", false: r.How}[o.survived]
	default:
		w.t.Fatalf("nobody looks at the host for %s", o.probe.Name)
	}
	return r
}

// operator is the harness at one end of the connection to an intruder.
type operator struct {
	w        *world
	s        stage
	control  *net.UnixConn
	lines    *bufio.Reader
	probe    wire.Probe
	way      string // of serve
	client   *client
	typed    string
	survived bool
	stolen   bool
	got      int           // datagrams that the intruder says it got
	crowded  error         // why not all clients of a crowd could connect
	another  *net.UnixConn // a second connection; nil: none
	marked   bool          // what came after a datagram has come
	queued   net.Conn      // a client that waits for the next instance; nil: none
}

// run sends a request and answers questions until the result is there.
func (o *operator) run(request wire.Request) (wire.Result, error) {
	text, err := json.Marshal(request)
	if err != nil {
		return wire.Result{}, err
	}
	if _, err := o.control.Write(append(text, '\n')); err != nil {
		return wire.Result{}, err
	}
	for {
		line, err := o.lines.ReadBytes('\n')
		if err != nil {
			return wire.Result{}, err
		}
		var m wire.Message
		if err := json.Unmarshal(line, &m); err != nil {
			return wire.Result{}, fmt.Errorf("%w in %q", err, line)
		}
		if m.Result != nil {
			return *m.Result, nil
		}
		answer, rights := o.answer(m)
		if m.Ask == "survivor" {
			return wire.Result{Probe: o.probe.Name, Achieved: o.survived, How: "gone with the starter"}, nil
		}
		reply, err := json.Marshal(wire.Reply{Answer: answer})
		if err != nil {
			return wire.Result{}, err
		}
		if err := o.send(append(reply, '\n'), rights); err != nil {
			return wire.Result{}, err
		}
	}
}

// send sends a line, with a descriptor where a client may pass one.
func (o *operator) send(line []byte, rights *os.File) error {
	if rights == nil {
		_, err := o.control.Write(line)
		return err
	}
	defer rights.Close()
	err := fdpass.SendFiles(o.control, line, []*os.File{rights})
	if errors.Is(err, unix.EPERM) { // the socket takes none: SO_PASSRIGHTS, Linux 6.16
		_, err = o.control.Write(line)
	}
	return err
}

// answer does what the intruder asks for.
func (o *operator) answer(m wire.Message) (string, *os.File) {
	switch m.Ask {
	case "reset", "close":
		tcp := o.w.clients[0].(*net.TCPConn)
		if m.Ask == "reset" {
			_ = tcp.SetLinger(0)
		}
		tcp.Close()
	case "dial":
		o.w.beClient(m.Argument)
	case "queue":
		c, err := net.Dial("tcp", o.w.tcp4)
		if err != nil {
			return err.Error(), nil
		}
		o.w.t.Cleanup(func() { c.Close() })
		o.queued = c
	case "ipc":
		id, err := o.w.makeIPC(m.Argument)
		if err != nil {
			return err.Error(), nil
		}
		return strconv.Itoa(id), nil
	case "victim":
		v, err := o.w.startVictim()
		if err == nil && strings.HasPrefix(o.probe.Name, "peer-") {
			err = v.connect(o.w.unix)
		}
		if err != nil {
			return err.Error(), nil
		}
		return v.where, nil
	case "rights":
		f, err := o.w.rights(m.Argument)
		if err != nil {
			o.w.t.Errorf("rights: %v", err)
		}
		return "sent", f
	case "another":
		c, err := net.Dial("unix", o.w.unix)
		if err != nil {
			return err.Error(), nil
		}
		o.w.t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(waitTimeout))
		o.another = c.(*net.UnixConn)
	case "through":
		if err := o.through(m.Argument); err != nil {
			return err.Error(), nil
		}
	case "steal":
		o.stolen = o.w.steal(m.Argument)
	case "typed":
		o.typed = o.w.terminal.read()
	case "survivor":
		o.survived = o.killStarter()
	case "which":
		if strings.HasSuffix(o.way, "backlog") {
			o.crowded = o.w.crowd()
		}
		return o.way, nil
	case "ready":
		if err := o.client.start(); err != nil {
			o.w.t.Logf("client: %v", err)
			return wire.NoClient, nil
		}
	case "marked":
		o.hearMarker(m.Argument)
	case "sent":
		o.client.sent()
	case "got":
		if strings.HasPrefix(m.Argument, o.w.nonce) {
			o.got++
		}
		if o.got == o.client.count() {
			return wire.GotAll, nil
		}
	default:
		o.w.t.Errorf("the intruder asks for %q", m.Ask)
	}
	return "", nil
}

// beClient connects to where the intruder listens, and hears it as a witness.
func (w *world) beClient(address string) {
	c, err := net.DialTimeout("tcp", address, 20*time.Second)
	if err != nil {
		return
	}
	w.serveUntilEnd(c, func() {
		_ = c.SetDeadline(time.Now().Add(waitTimeout))
		line, err := bufio.NewReader(c).ReadString('\n')
		if err == nil {
			w.hear(line, "client of "+address)
			_, _ = c.Write([]byte(w.secret + "\n"))
		}
	})
}

// rights is what a colluding client passes in. The caller closes it.
func (w *world) rights(what string) (*os.File, error) {
	socket := func(kind int) (*os.File, error) {
		fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, os.NewSyscallError("socket", err)
		}
		return os.NewFile(uintptr(fd), what), nil
	}
	switch what {
	case "udp":
		return socket(unix.SOCK_DGRAM)
	case "tcp":
		return socket(unix.SOCK_STREAM)
	case "connection":
		c, err := net.Dial("tcp", w.witness["tcp4"])
		if err != nil {
			return nil, err
		}
		defer c.Close()
		return c.(*net.TCPConn).File()
	case "netns":
		return os.Open("/proc/self/ns/net")
	}
	return os.Open("/")
}

// through passes something in over a socket that the intruder passes out.
func (o *operator) through(what string) error {
	var message fdpass.Receiver
	socket := -1
	err := fd.Read(o.another, func(another int) (err error) {
		_, socket, err = message.Receive(another, make([]byte, 1))
		return err
	})
	if err != nil || socket < 0 {
		return errors.Join(err, errors.New("no descriptor"))
	}
	defer unix.Close(socket)
	f, err := o.w.rights(what)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Sendmsg(socket, []byte("x"), unix.UnixRights(int(f.Fd())), nil, 0)
}

// killStarter kills the starter, and reports whether a service still answers on
// the connection after three seconds, or as long as it takes to be gone.
func (o *operator) killStarter() bool {
	o.s.kill()
	_ = o.control.SetReadDeadline(time.Now().Add(3 * time.Second))
	if _, err := o.lines.ReadByte(); errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
		return false
	}
	if _, err := o.control.Write([]byte("alive\n")); err != nil {
		return false
	}
	_ = o.control.SetReadDeadline(time.Now().Add(waitTimeout))
	_, err := o.lines.ReadByte()
	return err == nil
}

// serve has a well-behaved instance serve a client, one that waits already if queued is not nil, and says
// whether it did.
func (w *world) serve(s stage, way string, queued net.Conn) (bool, string) {
	control := w.dial(s)
	defer control.Close()
	o := &operator{w: w, s: s, control: control, lines: bufio.NewReader(control), way: way}
	o.client = &client{w: w, way: way, queued: queued, result: make(chan error, 1), over: make(chan struct{})}
	gone := sync.OnceFunc(func() { close(o.client.over) })
	defer gone()
	w.nonce = rand.Text()
	request := w.request(wire.Probe{Name: "serve"})
	name, kind, _ := strings.Cut(way, " ")
	r, err := o.run(request)
	switch {
	case err != nil:
		return false, "no answer: " + err.Error()
	case kind == "refill":
		return r.Achieved, r.How
	case kind == "backlog" && o.crowded != nil:
		return false, o.crowded.Error()
	case kind == "backlog":
		return true, "eight clients connected"
	}
	_, _ = io.Copy(io.Discard, o.lines) // until the instance is gone
	gone()
	if strings.HasPrefix(name, "tcp") {
		if o.client.conn == nil {
			return false, r.How
		}
		if err := <-o.client.result; err != nil {
			return false, r.How + "; the client: " + err.Error()
		}
		return r.Achieved, r.How
	}
	return o.got == o.client.count(), fmt.Sprintf("%s: %d of %d datagrams", r.How, o.got, o.client.count())
}

// crowd connects eight clients at once: the listener's queue has room for them.
func (w *world) crowd() error {
	for i := range 8 {
		c, err := net.DialTimeout("tcp", w.tcp4, 5*time.Second)
		if err != nil {
			return fmt.Errorf("client %d: %w", i+1, err)
		}
		defer c.Close()
	}
	return nil
}
