package service

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"activator/internal/fdpass"
	"activator/internal/ktest"
	"activator/internal/listen"
	"activator/internal/notify"
	"activator/internal/output"
	"activator/internal/process"
	"activator/internal/spec"
)

func TestMain(m *testing.M) {
	if process.IsHelper() {
		process.RunHelper()
	}
	if len(os.Args) == 3 && os.Args[1] == "service" {
		service(os.Args[2])
	}
	ktest.Main(m)
}

// service is what the test's own binary does inside the sandbox.
func service(behaviour string) {
	inherited, err := fdpass.ReceiveInherited()
	if err != nil {
		fmt.Println(err)
		os.Exit(9)
	}
	switch behaviour {
	case "crash":
		os.Exit(7)
	case "vain":
		os.Exit(0)
	case "deaf":
		ktest.Hang()
	case "break":
		_ = syscall.Shutdown(int(inherited[0].File.Fd()), syscall.SHUT_RDWR)
		os.Exit(0)
	case "say":
		fmt.Println("said")
		behaviour = "once"
	case "ready":
		_ = notify.SendState("STATUS=warming up\nREADY=1")
	case "late":
		_ = notify.SendState("EXTEND_TIMEOUT_USEC=60000000")
		time.Sleep(2500 * time.Millisecond)
		_ = notify.SendState("READY=1")
	case "alive":
		if !announcesLife(5) {
			os.Exit(9)
		}
		ktest.Hang()
	case "store":
		leaveOrAnswer(inherited)
	case "abort well":
		aborted := make(chan os.Signal, 1)
		signal.Notify(aborted, syscall.SIGABRT)
		go func() { os.Exit(map[bool]int{true: 0, false: 9}[<-aborted == syscall.SIGABRT]) }()
		ktest.Hang()
	case "change":
		_ = notify.SendState("WATCHDOG_USEC=1")
		ktest.Hang()
	case "trigger":
		_ = notify.SendState("READY=1")
		_ = notify.SendState("ERRNO=2\nBUSERROR=org.Hangs\nEXIT_STATUS=3\nWATCHDOG=trigger")
		ktest.Hang()
	case "hasty":
		_ = notify.SendState("EXTEND_TIMEOUT_USEC=1")
		time.Sleep(100 * time.Millisecond)
		_ = notify.SendState("READY=1")
	case "chatter":
		_ = notify.SendState("READY=1")
		go func() {
			for {
				_ = notify.SendState("STATUS=and then")
			}
		}()
	case "leave":
		_ = notify.SendState("READY=1")
		_ = notify.SendState("STOPPING=1")
		ktest.Hang()
	}
	if behaviour == "any once" {
		answerOne(inherited[0].File)
	}
	l, err := net.FileListener(inherited[0].File)
	if err != nil {
		fmt.Println(err)
		os.Exit(9)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			os.Exit(9)
		}
		if script, err := os.ReadFile(behaviour); err == nil { // it is ours, see script
			_, answer, _ := strings.Cut(string(script), "\n")
			fmt.Fprint(c, answer)
			os.Exit(0)
		}
		if behaviour == "hold" || behaviour == "answer" {
			go func() {
				_, _ = io.Copy(c, c)
				for err := error(nil); behaviour == "hold" && err == nil; { // he has said all; we have not
					_, err = c.Write([]byte("."))
					time.Sleep(5 * time.Millisecond)
				}
				c.Close()
			}()
			continue
		}
		fmt.Fprintf(c, "pid %d\n", os.Getpid())
		c.Close()
		if behaviour == "once" {
			os.Exit(0)
		}
		if behaviour == "crash after one" {
			os.Exit(7)
		}
	}
}

// stand is a service on a unix socket, or at address, and what it says.
type stand struct {
	address string // "": a unix socket at path
	seal    spec.Seal
	means   listen.Means
	shut    bool                 // nobody is told yet to build a sandbox
	before  func(*listen.Socket) // what has happened to its socket; nil: nothing
	slots   *Slots
	service *Service
	t       *testing.T
	path    string
	log     chan string
	stop    func()
}

func (s *stand) await(words ...string) string {
	s.t.Helper()
	limit := time.After(5 * time.Minute)
	for {
		select {
		case line := <-s.log:
			ok := true
			for _, w := range words {
				ok = ok && strings.Contains(line, w)
			}
			if ok {
				return line
			}
		case <-limit:
			s.t.Fatalf("no line with %q", words)
		}
	}
}

// drain counts the lines so far that have all the words.
func (s *stand) drain(words ...string) (n int) {
	for {
		select {
		case line := <-s.log:
			ok := true
			for _, w := range words {
				ok = ok && strings.Contains(line, w)
			}
			if ok {
				n++
			}
		default:
			return n
		}
	}
}

// ask connects; the answer comes when it comes.
func (s *stand) ask() net.Conn {
	s.t.Helper()
	c, err := net.Dial("unix", s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

func read(c net.Conn) string {
	text, err := io.ReadAll(c)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func (s *stand) answered(c net.Conn) {
	s.t.Helper()
	if text, err := io.ReadAll(c); err != nil || string(text) != "pid 1\n" {
		s.t.Errorf("answer %q, %v", text, err)
	}
}

func up(t *testing.T, behaviour string, change func(*spec.Service)) *stand {
	t.Helper()
	s := &stand{t: t, log: make(chan string, 10000)}
	return s.up(behaviour, change)
}

// up runs it as it is.
func (s *stand) up(behaviour string, change func(*spec.Service)) *stand {
	t := s.t
	t.Helper()
	dir, err := os.MkdirTemp("", "sup")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	service := spec.Service{
		Timeouts:   spec.Timeouts{RestartDelay: time.Millisecond, RestartMaxDelay: 20 * time.Millisecond, Hold: 30 * time.Second, StartTimeout: 30 * time.Second, StopTimeout: 30 * time.Second},
		Process:    spec.Process{Name: "test", Argv: []string{self, "service", behaviour}, Env: []string{"GORACE=atexit_sleep_ms=0"}, FDNames: []string{"test"}, Umask: 0o22},
		StopSignal: syscall.SIGTERM,
	}
	if change != nil {
		change(&service)
	}
	s.path = filepath.Join(dir, "s")
	s.run(service)
	t.Cleanup(s.stop)
	return s
}

// open opens its socket.
func (s *stand) open() *listen.Socket {
	s.t.Helper()
	if s.address == "" {
		s.address = "unix://" + s.path
	}
	address, err := spec.ParseAddress(s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	sockets, err := listen.OpenAll(s.t.Context(), []spec.Socket{{Address: address, Name: "test", Seal: s.seal}}, s.means)
	if err != nil {
		s.t.Fatal(err)
	}
	if s.before != nil {
		s.before(sockets[0])
	}
	return sockets[0]
}

// run makes everything a service needs, and stop takes it all down again.
func (s *stand) run(of spec.Service) {
	s.t.Helper()
	if s.slots = NewSlots(1, 1); !s.shut {
		s.slots.OpenSlots()
	}
	s.service, s.stop = Serve(s.t, of, []*listen.Socket{s.open()}, s.slots, s.log)
}

// Serve runs a service of sockets, which it takes, until stop. The lines of its log go to lines.
func Serve(t *testing.T, of spec.Service, sockets []*listen.Socket, slots *Slots, lines chan<- string) (service *Service, stop func()) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	sink := output.NewSink(w, "text", slog.LevelDebug)
	watcher, err := listen.NewWatcher(nil)
	if err != nil {
		t.Fatal(err)
	}
	starter, err := process.NewStarter()
	if err != nil {
		t.Fatal(err)
	}
	service = New(of, Surroundings{Starter: starter, Watcher: watcher, Sink: sink, Slots: slots}, sockets)
	for _, socket := range sockets {
		if err := watcher.WatchNode(socket, service.NodeTouched); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	watching, unwatch := context.WithCancel(context.Background())
	var served, others sync.WaitGroup
	served.Go(func() { service.Run(ctx) })
	others.Go(func() { _ = watcher.Run(watching) })
	others.Go(func() {
		for scan := bufio.NewScanner(r); scan.Scan(); {
			t.Log(scan.Text())
			lines <- scan.Text()
		}
	})
	return service, sync.OnceFunc(func() {
		cancel()
		served.Wait()
		unwatch()
		starter.Close()
		for _, socket := range sockets {
			_ = socket.Close()
		}
		_ = sink.Close()
		w.Close()
		others.Wait()
		_ = watcher.Close()
		r.Close()
	})
}

func TestServes(t *testing.T) {
	s := up(t, "serve", nil)
	s.answered(s.ask())
	s.answered(s.ask())
	s.await("state=running")
	s.stop()
	s.await("state=ended")
}

func TestServesAnewAfterExit(t *testing.T) {
	s := up(t, "once", nil)
	for range 20 {
		s.answered(s.ask())
	}
}

func TestServesAnewAfterCrash(t *testing.T) {
	s := up(t, "crash after one", nil)
	for range 20 {
		s.answered(s.ask())
	}
	s.await("state=resting", "exit=\"exit status 7\"")
}

// Nobody is served, so the client is turned away after hold, and so is who comes
// later: each has waited for hold.
func TestHoldTurnsAway(t *testing.T) {
	s := up(t, "crash", func(service *spec.Service) { service.Hold = 300 * time.Millisecond })
	for range 2 {
		begin := time.Now()
		c := s.ask()
		if text, err := io.ReadAll(c); len(text) > 0 {
			t.Errorf("answer %q, %v", text, err)
		}
		if waited := time.Since(begin); waited < 290*time.Millisecond {
			t.Errorf("turned away after %v, before its time", waited)
		}
		s.await("turned away", "clients=1")
	}
}

// A start that takes too long is given up, and the client turned away in the end.
func TestStartTimeout(t *testing.T) {
	s := up(t, "deaf", func(service *spec.Service) {
		service.Process.Notify, service.StartTimeout, service.Hold = true, 50*time.Millisecond, 200*time.Millisecond
	})
	c := s.ask()
	s.await("state=aborting")
	if text, _ := io.ReadAll(c); len(text) > 0 {
		t.Errorf("answer %q", text)
	}
}

func TestNotifyReady(t *testing.T) {
	s := up(t, "ready", func(service *spec.Service) { service.Process.Notify = true })
	s.answered(s.ask())
	s.await("status=\"warming up\"")
	s.await("state=running")
}

func TestNotifyExtends(t *testing.T) {
	s := up(t, "late", func(service *spec.Service) { service.Process.Notify, service.StartTimeout = true, 2*time.Second })
	s.answered(s.ask())
	s.await("state=running")
}

// STOPPING=1 gives the program stop_timeout, and not more.
func TestNotifyStopping(t *testing.T) {
	s := up(t, "leave", func(service *spec.Service) { service.Process.Notify, service.StopTimeout = true, 100*time.Millisecond })
	s.ask()
	s.await("state=running")
	s.await("state=stopping")
	s.await("its time is over")
	s.await("signal: killed")
}

// A program that cannot be started is not a program that crashed.
func TestMissingProgram(t *testing.T) {
	s := up(t, "", func(service *spec.Service) {
		service.Process.Argv = []string{"/nowhere/program"}
		service.Hold = 100 * time.Millisecond
	})
	c := s.ask()
	s.await("service not started", "/nowhere/program", "no such file")
	if text, _ := io.ReadAll(c); len(text) > 0 {
		t.Errorf("answer %q", text)
	}
}

// The end comes at any time: here while the program starts.
func TestEndDuringStart(t *testing.T) {
	s := up(t, "deaf", func(service *spec.Service) { service.Process.Notify = true })
	s.ask()
	s.await("state=starting")
	s.stop()
	s.await("state=ended")
}

func TestNodeIsHealed(t *testing.T) {
	s := up(t, "serve", nil)
	for range 3 {
		if err := os.Remove(s.path); err != nil {
			t.Fatal(err)
		}
		s.await("node healed", "was deleted")
		s.answered(s.ask())
	}
}

// takeAway removes a folder at one stroke: what is deleted piece by piece is healed
// in between.
func takeAway(t *testing.T, dir string) {
	t.Helper()
	if err := os.Rename(dir, dir+".gone"); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir + ".gone"); err != nil {
		t.Fatal(err)
	}
}

// With its reserve gone too, the socket is bound anew: the program that holds the
// old one is stopped, and the next one has the new one.
func TestBoundAnewWhileRunning(t *testing.T) {
	s := up(t, "serve", nil)
	s.answered(s.ask())
	s.await("state=running")
	takeAway(t, filepath.Dir(s.path))
	s.await("node healed", "bound anew")
	s.await("state=listening")
	s.answered(s.ask())
}

// What a program does to its listener does not end the service.
func TestBrokenSocketIsMended(t *testing.T) {
	s := up(t, "break", nil)
	s.ask()
	s.await("socket mended")
	s.await("state=listening")
	for range 3 {
		s.ask()
		s.await("socket mended")
	}
}
