package test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"activator/internal/ktest"
)

// carried is a program that has never heard of us: it listens at an address of its
// own network, says which client it sees and what it may do, and sends back what it gets,
// with a word behind the end.
func carried(args []string) {
	if len(args) > 2 {
		late, _ := time.ParseDuration(args[2])
		time.Sleep(late)
	}
	l, err := net.Listen(args[0], args[1])
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	_, err = net.DialTimeout("tcp", "127.0.0.1:1", time.Second)
	refusal := syscall.Errno(0)
	_ = errors.As(err, &refusal)
	for {
		for l == nil {
			time.Sleep(time.Hour)
		}
		c, err := l.Accept()
		if err != nil {
			os.Exit(1)
		}
		if len(args) > 3 { // enough for one life
			l.Close()
			l = nil
		}
		go func() {
			fmt.Fprintf(c, "%s %d\n", c.RemoteAddr(), refusal)
			_, _ = io.Copy(c, c)
			_, _ = io.WriteString(c, "end")
			c.Close()
		}()
	}
}

// carriedAt activates it: target is as net.Listen wants it, "tcp :8000".
func carriedAt(t *testing.T, listen, target, more string, args ...string) *activator {
	t.Helper()
	network, addr, _ := strings.Cut(target, " ")
	exec := fmt.Sprintf("%q, %q", network, addr)
	for _, a := range args {
		exec += fmt.Sprintf(", %q", a)
	}
	if network == "tcp4" || network == "tcp6" {
		network = "tcp"
	}
	return activate(t, "--config", configureIn(t, folder(t), "carried", fmt.Sprintf(
		"[[socket]]\nlisten = [%q]\ntarget = %q\n[service]\nexec = [\"SELF\", %s]\nenvironment = [\"ACTIVATOR_TEST_SERVICE=carried\"]\nhandover = \"proxy\"\n%s",
		listen, network+"://"+addr, exec, quick+more)))
}

// talk sends text, ends its half, and wants it back; it returns what the program
// said of us.
func talk(c net.Conn, text []byte) (seen string, err error) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(waitTimeout))
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(text)
		if err == nil {
			err = c.(interface{ CloseWrite() error }).CloseWrite()
		}
		sent <- err
	}()
	r := bufio.NewReader(c)
	if seen, err = r.ReadString('\n'); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return seen, err
	}
	back, err := io.ReadAll(r)
	if err == nil && !bytes.Equal(back, append(bytes.Clone(text), "end"...)) {
		err = fmt.Errorf("%d bytes back, want %d: %w", len(back), len(text)+3, io.ErrUnexpectedEOF)
	}
	return strings.TrimSpace(seen), errors.Join(err, <-sent)
}

// TCP and unix in every combination: half-closed, with the client's own address
// where there is one, and a program that may connect nowhere.
func TestProxyCombinations(t *testing.T) {
	dir, n := openFolder(t), ktest.Port(t)
	text := make([]byte, 300<<10)
	for i := range text {
		text[i] = byte(rand.Uint32())
	}
	for _, listen := range []string{fmt.Sprintf("tcp://127.0.0.1:%d", n), fmt.Sprintf("tcp://[::1]:%d", n), "unix://" + dir + "/s", "unix://@" + filepath.Base(dir)} {
		for _, target := range []string{"tcp :8000", "tcp4 127.0.0.1:8000", "tcp6 [::1]:8000", "unix /run/app.sock", "unix @app"} {
			t.Run(listen+" to "+target, func(t *testing.T) {
				a := carriedAt(t, listen, target, "")
				network, addr, _ := strings.Cut(listen, "://")
				c, err := net.Dial(network, addr)
				if err != nil {
					t.Fatal(err)
				}
				own := c.LocalAddr().String()
				seen, err := talk(c, text)
				if err != nil {
					t.Fatal(err)
				}
				who, refusal, _ := strings.Cut(seen, " ")
				if refusal != strconv.Itoa(int(syscall.EPERM)) {
					t.Errorf("its own connect ends with %q, want EPERM", refusal)
				}
				six := strings.HasPrefix(own, "[")
				same := network == "tcp" && (target == "tcp :8000" || six == strings.HasPrefix(target, "tcp6") && strings.HasPrefix(target, "tcp"))
				if network == "tcp" && same != (who == own) {
					t.Errorf("it sees %s, and the client is %s", who, own)
				}
				if a.log.count("level=ERROR")+a.log.count("level=WARN") > 0 {
					t.Errorf("there are complaints in the log")
				}
			})
		}
	}
}

// Any address of a client, and a port that the program itself has.
func TestProxyClientAddresses(t *testing.T) {
	n, inside := ktest.Port(t), ktest.Port(t)
	carriedAt(t, fmt.Sprintf("tcp://127.0.0.1:%d", n), fmt.Sprintf("tcp :%d", inside), "")
	for _, tt := range []struct{ from, sees string }{
		{"127.0.0.2:0", "127.0.0.2:"},
		{"127.9.8.7:0", "127.9.8.7:"},
		{fmt.Sprintf("127.0.0.3:%d", inside), "127.0.0.3:"},
		{fmt.Sprintf("127.0.0.1:%d", inside), "127.0.0.1:"},
	} {
		from, err := net.ResolveTCPAddr("tcp", tt.from)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 { // the second and third find a connection from there that is just over
			d := net.Dialer{LocalAddr: from, Control: func(_, _ string, raw syscall.RawConn) error {
				return raw.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1) })
			}}
			c, err := d.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", n))
			if i > 0 && errors.Is(err, syscall.EADDRNOTAVAIL) {
				break // it is not over on the host
			}
			if err != nil {
				t.Fatal(err)
			}
			own := c.LocalAddr().String()
			seen, err := talk(c, []byte("hello"))
			who, _, _ := strings.Cut(seen, " ")
			if err != nil || !strings.HasPrefix(who, tt.sees) || from.Port == 0 && who != own {
				t.Errorf("%s is seen as %q: %v", own, seen, err)
			}
		}
	}
}

// The first client waits until the program listens; it is running from then on.
func TestProxyWaitsForTheProgram(t *testing.T) {
	for _, target := range []string{"tcp :8000", "unix /run/app.sock"} {
		n := ktest.Port(t)
		a := carriedAt(t, fmt.Sprintf("tcp://127.0.0.1:%d", n), target, "", "300ms")
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", n))
				if err == nil {
					_, err = talk(c, []byte("hello"))
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if after, err := time.ParseDuration(field(a.wait("state=running"), "after")); err != nil || after < 300*time.Millisecond {
			t.Errorf("it is said to run after %v: %v", after, err)
		}
	}
}

// A program that never listens at its target is ended, and the log says why.
func TestProxySaysWhereNobodyListens(t *testing.T) {
	n := ktest.Port(t)
	a := activate(t, "--config", configureIn(t, folder(t), "deaf", fmt.Sprintf(
		"[[socket]]\nlisten = [\"tcp://127.0.0.1:%d\"]\ntarget = \"tcp://:8001\"\n[service]\nexec = [\"SELF\", \"tcp\", \":8000\"]\nenvironment = [\"ACTIVATOR_TEST_SERVICE=carried\"]\nhandover = \"proxy\"\nstart_timeout = \"500ms\"\n", n)))
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", n))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a.wait("service not started", "the program does not listen at tcp://:8001")
	a.wait("state=resting")
}

// A program that lives on and listens no more is killed; the one that comes next
// serves those that wait in the queue, and the client that was accepted already.
func TestProxyEndsTheDeaf(t *testing.T) {
	for _, target := range []string{"tcp :8000", "unix /run/app.sock"} {
		n := ktest.Port(t)
		a := carriedAt(t, fmt.Sprintf("tcp://127.0.0.1:%d", n), target, "hold = \"500ms\"\nmax_connections = 1\n", "0s", "once")
		dial := func() net.Conn {
			c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", n))
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		if _, err := talk(dial(), []byte("hello")); err != nil {
			t.Fatal(err)
		}
		accepted := dial()
		a.wait("takes nobody")
		queued := dial()
		if _, err := talk(accepted, []byte("hello")); err != nil {
			t.Errorf("the client that was accepted for a program that listens no more: %v", err)
		}
		a.wait("it does not listen any more")
		if _, err := talk(queued, []byte("hello")); err != nil {
			t.Errorf("who waited in the queue: %v", err)
		}
		a.waitN(3, "state=running") // the second one listens no more, too, when it comes to the queue
	}
}

// A service without clients ends, between clients, and loses none of them.
func TestProxyIdle(t *testing.T) {
	t.Parallel()
	n := ktest.Port(t)
	a := carriedAt(t, fmt.Sprintf("tcp://127.0.0.1:%d", n), "tcp :8000", "idle_timeout = \"20ms\"\n")
	for i := range 60 {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", n))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := talk(c, []byte("hello")); err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
	}
	a.wait("state=stopping", "idle=")
}

// Python's server of files, unmodified, logs its clients.
func TestProxyPython(t *testing.T) {
	installed(t, "python3")
	n := ktest.Port(t)
	a := activate(t, "--config", example(t, "python-http", `"tcp://127.0.0.1:8000"]`, fmt.Sprintf(`"tcp://127.0.0.1:%d"]`, n), `"bind"`, `"proxy"`))
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	c, err := d.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", n))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET / HTTP/1.0\r\n\r\n")
	if page, err := io.ReadAll(c); !bytes.Contains(page, []byte("Directory listing")) || err != nil {
		t.Errorf("%q: %v", page, err)
	}
	a.wait("stream=stderr", "127.0.0.2 - - ")
}

// A program whose unix sockets may connect listens in its own network as any other. (Go listens by MPTCP, which Landlock does not know.)
func TestProxyConnectUnix(t *testing.T) {
	n := ktest.Port(t)
	activate(t, "--config", configureIn(t, folder(t), "web", fmt.Sprintf("[[socket]]\nlisten = [\"tcp://127.0.0.1:%d\"]\ntarget = \"tcp://:8000\"\n"+
		"[service]\nexec = [\"python3\", \"-m\", \"http.server\", \"8000\"]\nhandover = \"proxy\"\n[sandbox]\nconnect = \"unix\"\n", n)))
	if status, _, err := get(fmt.Sprintf("http://127.0.0.1:%d/", n)); status != 200 || err != nil {
		t.Errorf("%d: %v", status, err)
	}
}

// A service that is killed at random loses what it had taken, and no client in our
// queue. Until its last thread is gone it takes connections into a queue of its own,
// also of clients that it has cut already.
func TestProxyLosesNobodyToKills(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"tcp :8000", "unix /run/app.sock"} {
		n := ktest.Port(t)
		a := carriedAt(t, fmt.Sprintf("tcp://127.0.0.1:%d", n), target, "")
		stop, kills := make(chan struct{}), make(chan int)
		const workers = 8
		var tl tally
		go func() { kills <- killAtRandom(a, stop, &tl, 10) }()
		var all sync.WaitGroup
		for worker := range workers {
			all.Go(func() {
				for i := range 125 {
					c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", n))
					if err == nil {
						_, err = talk(c, fmt.Appendf(nil, "request %d of %d", i, worker))
					}
					switch {
					case err == nil:
						tl.answered.Add(1)
					case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ENOTCONN):
						tl.cut.Add(1)
					default:
						t.Errorf("request %d of %d: %v", i, worker, err)
					}
				}
			})
		}
		all.Wait()
		close(stop)
		killed := <-kills
		t.Logf("%s: %d answered, %d cut by %d kills", target, tl.answered.Load(), tl.cut.Load(), killed)
		if tl.answered.Load()+tl.cut.Load() != workers*125 || tl.cut.Load() > int64(2*workers*killed) || killed == 0 {
			t.Errorf("the count is not exact")
		}
	}
}

// No more than max_connections are carried at once: others wait, and are not
// dropped.
func TestProxyHoldsBack(t *testing.T) {
	n := ktest.Port(t)
	carriedAt(t, fmt.Sprintf("tcp://127.0.0.1:%d", n), "tcp :8000", "max_connections = 2\n")
	dial := func() (net.Conn, *bufio.Reader) {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", n))
		if err != nil {
			t.Fatal(err)
		}
		return c, bufio.NewReader(c)
	}
	first, greeting := dial()
	if _, err := greeting.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	second, greeting := dial()
	defer second.Close()
	if _, err := greeting.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	third, greeting := dial()
	defer third.Close()
	_ = third.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if line, err := greeting.ReadString('\n'); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the third is served: %q, %v", line, err)
	}
	first.Close()
	_ = third.SetReadDeadline(time.Now().Add(waitTimeout))
	if _, err := greeting.ReadString('\n'); err != nil {
		t.Error(err)
	}
}

// After fifty activations the activator holds what it held before.
func TestProxyLeavesNothing(t *testing.T) {
	t.Parallel()
	n := ktest.Port(t)
	a := carriedAt(t, fmt.Sprintf("tcp://127.0.0.1:%d", n), "tcp :8000", "")
	pid, run := a.cmd.Process.Pid, 0
	times := func(most int) {
		for ; run < most; run++ {
			c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", n))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := talk(c, []byte("hello")); err != nil {
				t.Fatal(err)
			}
			killed(t, pidOf(t, a, run+1))
			a.waitN(run+2, "state=listening")
		}
	}
	times(10)
	settle(t, pid)
	fds, threads := fdsOf(t, pid), threadsOf(t, pid)
	times(60)
	settle(t, pid)
	if now := fdsOf(t, pid); now != fds {
		t.Errorf("descriptors before:\n%s\nand after fifty activations:\n%s", fds, now)
	}
	if now := threadsOf(t, pid); now > threads+2 {
		t.Errorf("%d threads before, %d after", threads, now)
	}
	if a.log.count("mended")+a.log.count("level=ERROR") > 0 {
		t.Error("there are complaints in the log")
	}
	if left := childrenOf(pid); len(left) != 2 { // the guard, and the next sandbox
		t.Errorf("children left: %v", left)
	}
}

// nginx serves files of 1 MB and sees its clients: by the client's own address, and by
// the PROXY protocol. What it holds is all of its own network.
func TestProxyNginx(t *testing.T) {
	installed(t, "nginx")
	for _, protocol := range []string{"none", "v1", "v2"} {
		dir, n := openFolder(t), ktest.Port(t)
		if err := os.Mkdir(filepath.Join(dir, "site"), 0o755); err != nil {
			t.Fatal(err)
		}
		large := make([]byte, 1<<20)
		for i := range large {
			large[i] = byte(rand.Uint32())
		}
		writeFile(t, filepath.Join(dir, "site/large"), large)
		text := nginxSite(dir, 1)
		if protocol != "none" {
			text = bytes.ReplaceAll(text, []byte("80;"), []byte("80 proxy_protocol;"))
			text = bytes.ReplaceAll(text, []byte("$remote_"), []byte("$proxy_protocol_"))
		}
		conf := filepath.Join(dir, "nginx.conf")
		writeFile(t, conf, text)
		a := activate(t, "--config", example(t, "nginx-proxy", "127.0.0.1:8080", fmt.Sprint("127.0.0.1:", n), "[::1]:8080", fmt.Sprint("[::1]:", n),
			`"/usr/sbin/nginx"`, `"/usr/sbin/nginx", "-c", "`+conf+`"`, `["/var/www/html"]`, `["`+dir+`"]`, "max_conn", "proxy_protocol = \""+protocol+"\"\nmax_conn"))
		want := sha256.Sum256(large)
		for _, host := range []string{"127.0.0.1", "[::1]"} {
			own, _, body, err := getFrom(fmt.Sprintf("http://%s:%d/me", host, n))
			if strings.NewReplacer("[", "", "]", "").Replace(own) != string(body) || err != nil {
				t.Errorf("%s, %s: nginx sees %q, want %q: %v", protocol, host, body, own, err)
			}
			for range 5 {
				if status, body, err := get(fmt.Sprintf("http://%s:%d/large", host, n)); sha256.Sum256(body) != want || err != nil {
					t.Errorf("%s, %s: status %d, %d bytes: %v", protocol, host, status, len(body), err)
				}
			}
		}
		if a.log.count("state=running") != 1 {
			t.Error("it was started more than once")
		}
	}
}

// The program sees nothing of the host: its sockets are of its own network.
func TestProxyNoSocketEnters(t *testing.T) {
	said := command(t, "", program(t, "activator"), "check", "-v", "--config", "../configs/nginx-proxy.toml")
	if want := "# sealed: tcp://127.0.0.1:8080: proxy: no socket of the host's enters\n"; !strings.Contains(said, want) {
		t.Errorf("check -v does not say %q:\n%s", want, said)
	}
	n := ktest.Port(t)
	a := carriedAt(t, fmt.Sprintf("tcp://127.0.0.1:%d", n), "tcp :8000", "")
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", n))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	pid := pidOf(t, a, 1)
	ours, err := os.ReadFile("/proc/self/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	sockets := 0
	for _, link := range links {
		target, _ := os.Readlink(link)
		inode, is := strings.CutPrefix(target, "socket:[")
		if !is {
			continue
		}
		sockets++
		if strings.Contains(string(ours), " "+strings.TrimSuffix(inode, "]")+" ") {
			t.Errorf("it holds a socket of the host's network: %s", target)
		}
	}
	if sockets != 2 { // it listens, and has accepted
		t.Errorf("it holds %d sockets, want 2", sockets)
	}
}
