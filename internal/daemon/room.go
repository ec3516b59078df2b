package daemon

import (
	"context"

	"activator/internal/config"
	"activator/internal/inetd"
	"activator/internal/listen"
	"activator/internal/spawn"
	"activator/internal/supervise"
)

// service is a service at work, whichever room it lives in.
type service interface {
	// Run serves until ctx is done, and everything it started is gone.
	Run(ctx context.Context)
	// NodeTouched tells it that a socket's node may have been deleted or replaced.
	NodeTouched()
}

// service chooses the room: one program for all clients, or one for each.
func (p planned) service(around supervise.Surroundings, sockets []*listen.Socket) service {
	if !p.conf.Accept {
		return supervise.New(p.spec, around, sockets)
	}
	return inetd.New(inetd.Spec{
		Limits:         p.spec.Limits,
		Process:        p.spec.Process,
		MaxConnections: p.conf.MaxConns,
		MaxPerSource:   p.conf.MaxSource,
		Warm:           p.spec.Warm,
		StopSignal:     p.spec.StopSignal,
		Stdout:         p.spec.Stdout,
		Stderr:         p.spec.Stderr,
	}, around, sockets)
}

// handed says where the program has its sockets.
func handed(conf config.Service) spawn.Handed {
	stdio := conf.Handover == "stdio"
	switch {
	case conf.Accept && stdio:
		return spawn.LaterStdio
	case conf.Accept:
		return spawn.LaterFD
	case stdio:
		return spawn.StdioStart
	}
	return spawn.AtStart
}

// fdNames are LISTEN_FDNAMES: none where the socket is stdin, "connection" of a
// client's, as in sd_listen_fds(3).
func fdNames(conf config.Service) (names []string) {
	switch {
	case conf.Handover == "stdio":
		return nil
	case conf.Accept:
		return []string{"connection"}
	}
	for _, s := range conf.Sockets {
		names = append(names, s.Name)
	}
	return names
}

// stdout is where the program's own is not its socket.
func stdout(conf config.Service) string {
	if conf.Handover == "stdio" {
		return "null" // and then replaced
	}
	return conf.Stdout
}
