package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"activator/internal/fdpass"
	"activator/internal/notify"
)

// Exit codes, as those of activator.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

const usage = `Usage: echo [options]

Echoes on the sockets it is passed by socket activation (LISTEN_FDS).
Start it by: activator --config configs/echo.toml

  -d, --debug          tell on standard error about every connection and datagram
  -s, --sdnotify       send READY=1 and STOPPING=1 to NOTIFY_SOCKET
  -t, --start-sleep N  wait N seconds (or 1.5s, 300ms) before serving
      --drain N        at the end wait that long for open connections; default 5s
      --exit-after N   end after N answers: closed connections and datagrams
      --version        print the version
  -h, --help           print this
`

type options struct {
	debug      bool
	sdnotify   bool
	startSleep time.Duration
	drain      time.Duration
	exitAfter  int64 // answers; 0: never
	version    bool
}

func main() {
	os.Exit(run(os.Args[1:], os.Stderr))
}

// run is main, with the exit code as its result.
func run(args []string, stderr io.Writer) int {
	opts, err := parseOptions(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage)
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "echo: %v\n%s", err, usage)
		return exitUsage
	case opts.version:
		fmt.Println("echo " + version())
		return exitOK
	}
	if err := serve(opts, &logger{stderr, opts.debug}); err != nil {
		fmt.Fprintln(stderr, "echo:", err)
		return exitError
	}
	return exitOK
}

func parseOptions(args []string) (options, error) {
	var opts options
	flags := flag.NewFlagSet("echo", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	for _, name := range []string{"d", "debug"} {
		flags.BoolVar(&opts.debug, name, false, "")
	}
	for _, name := range []string{"s", "sdnotify"} {
		flags.BoolVar(&opts.sdnotify, name, false, "")
	}
	for _, name := range []string{"t", "start-sleep"} {
		flags.Var((*seconds)(&opts.startSleep), name, "")
	}
	opts.drain = 5 * time.Second
	flags.Var((*seconds)(&opts.drain), "drain", "")
	flags.Int64Var(&opts.exitAfter, "exit-after", 0, "")
	flags.BoolVar(&opts.version, "version", false, "")
	if err := flags.Parse(args); err != nil {
		return opts, err
	}
	if flags.NArg() > 0 {
		return opts, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if opts.exitAfter < 0 {
		return opts, fmt.Errorf("--exit-after %d: negative", opts.exitAfter)
	}
	return opts, nil
}

// seconds is a duration given as the reference server takes it, whole seconds,
// or as Go does.
type seconds time.Duration

func (s *seconds) String() string { return time.Duration(*s).String() }

func (s *seconds) Set(text string) error {
	const most = 1 << 31
	if n, err := strconv.ParseUint(text, 10, 64); err == nil && n < most {
		*s = seconds(time.Duration(n) * time.Second)
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return errors.New("want seconds or a duration like 300ms")
	}
	*s = seconds(d)
	return nil
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(unknown)"
}

// serve is the life of the service: inherit, answer, drain.
func serve(opts options, log *logger) error {
	// Before anything is taken: a signal from now on ends us in order. Two, so
	// that the second is not lost.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)

	s := newServer(opts.exitAfter, log)
	endpoints, err := inherit(s)
	if err != nil {
		return err
	}
	if opts.startSleep > 0 {
		log.debugf("waiting %v before serving", opts.startSleep)
		select {
		case <-time.After(opts.startSleep):
		case got := <-signals:
			log.debugf("%v while waiting to serve", got)
			return nil
		}
	}
	s.start(endpoints)
	opts.tell(log, "READY=1")
	select {
	case got := <-signals:
		log.debugf("%v: draining", got)
	case <-s.stopping:
	case <-s.ended:
	}
	opts.tell(log, "STOPPING=1")
	s.stop()
	select {
	case <-s.ended:
	case got := <-signals:
		log.warnf("%v again: %d connections cut", got, s.connections.Load())
	case <-time.After(opts.drain):
		log.warnf("%d connections cut after %v of draining", s.connections.Load(), opts.drain)
	}
	return s.failure()
}

// tell sends state where asked to. A manager that does not listen is no reason
// not to serve.
func (o options) tell(log *logger, state string) {
	if !o.sdnotify {
		return
	}
	if err := notify.Send(state); err != nil {
		log.warnf("%v", err)
	}
}

// inherit makes an endpoint of every passed descriptor, or of none.
func inherit(s *server) ([]endpoint, error) {
	inherited, err := fdpass.Receive()
	if errors.Is(err, fdpass.ErrNotActivated) {
		return nil, fmt.Errorf("%w; start it by: activator --config configs/echo.toml", err)
	}
	if err != nil {
		return nil, err
	}
	endpoints := make([]endpoint, len(inherited))
	for i, in := range inherited {
		name := in.File.Name()
		if endpoints[i], err = open(s, in.File); err != nil {
			return nil, fmt.Errorf("LISTEN_FDS=%d: %s: %w", len(inherited), name, err)
		}
		s.log.debugf("%s is %s", name, endpoints[i])
	}
	return endpoints, nil
}
