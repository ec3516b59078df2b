// Command echo is a service to activate: it answers on every kind of socket it
// inherits with what it was sent, and needs no network, no file and no
// privilege of its own.
//
//	[service]
//	exec = ["../bin/echo", "--debug"]
//
// Streams are echoed until the client ends its side and everything is sent
// back; datagrams and records one by one; what arrives in a FIFO goes to
// standard output. It does not bind sockets: without LISTEN_FDS it ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"activator/internal/kernel/fd"
)

const exitOK, exitError, exitUsage = 0, 1, 2 // as those of activator

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

func main() { os.Exit(runServer(os.Args[1:])) }

// runServer is main, with the exit code as its result.
func runServer(args []string) int {
	log.SetFlags(0) // the reader of the lines knows the time
	log.SetPrefix("echo: ")
	o, err := parseOptions(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(usage)
		return exitOK
	}
	if err != nil {
		log.Printf("%v\n%s", err, usage)
		return exitUsage
	}
	if o.version {
		info, _ := debug.ReadBuildInfo() // nil only in a program built without modules
		fmt.Println("echo", info.Main.Version)
		return exitOK
	}
	if err := serveSockets(o); err != nil {
		log.Print(err)
		return exitError
	}
	return exitOK
}

func parseOptions(args []string) (o options, err error) {
	o.drain = 5 * time.Second
	flags := flag.NewFlagSet("echo", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.BoolVar(&o.debug, "d", false, "")
	flags.BoolVar(&o.debug, "debug", false, "")
	flags.BoolVar(&o.sdnotify, "s", false, "")
	flags.BoolVar(&o.sdnotify, "sdnotify", false, "")
	flags.Func("t", "", parseSeconds(&o.startSleep))
	flags.Func("start-sleep", "", parseSeconds(&o.startSleep))
	flags.Func("drain", "", parseSeconds(&o.drain))
	flags.Uint64Var(&o.exitAfter, "exit-after", 0, "")
	flags.BoolVar(&o.version, "version", false, "")
	if err = flags.Parse(args); err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return o, err
}

// parseSeconds parses whole seconds, as the reference server does, or what Go does.
func parseSeconds(to *time.Duration) func(string) error {
	return func(text string) (err error) {
		if _, err := strconv.ParseUint(text, 10, 64); err == nil {
			text += "s"
		}
		if *to, err = time.ParseDuration(text); err != nil || *to < 0 {
			return errors.New("want seconds or a duration like 300ms")
		}
		return nil
	}
}

// serveSockets is the life of the service: inherit, answer, drain.
func serveSockets(o options) error {
	// Before anything is taken. Two, so that the second is not lost.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	s := &server{options: o}
	s.ctx, s.stop = context.WithCancelCause(context.Background())
	endpoints, err := inheritSockets(s)
	if err != nil {
		return err
	}
	if o.startSleep > 0 {
		s.debugf("waiting %v before serving", o.startSleep)
		select {
		case <-time.After(o.startSleep):
		case <-signals:
			return nil
		}
	}
	ended := s.startSocket(endpoints)
	s.tellState("READY=1")
	select {
	case got := <-signals:
		s.debugf("%v: draining", got)
	case <-s.ctx.Done():
	case <-ended:
	}
	s.tellState("STOPPING=1")
	s.stop(nil)
	select {
	case <-ended:
	case got := <-signals:
		log.Printf("%v again: %d connections cut", got, s.connections.Load())
	case <-time.After(o.drain):
		log.Printf("%d connections cut after %v of draining", s.connections.Load(), o.drain)
	}
	if err := context.Cause(s.ctx); err != context.Canceled {
		return err
	}
	return nil
}

// startSocket serves the endpoints, each in a goroutine of its own. It returns a
// channel that is closed when they and all connections are gone.
func (s *server) startSocket(endpoints []endpoint) <-chan struct{} {
	for _, e := range endpoints {
		if e.setDeadline != nil {
			context.AfterFunc(s.ctx, func() { fd.EndNow(e.setDeadline) })
		}
		s.running.Go(func() {
			if err := e.serve(); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				s.stop(fmt.Errorf("%s: %w", e.name, err))
			}
			s.debugf("%s: nothing more is taken", e.name)
		})
	}
	ended := make(chan struct{})
	go func() { s.running.Wait(); close(ended) }()
	return ended
}
