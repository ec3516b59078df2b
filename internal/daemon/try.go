package daemon

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"

	"activator/internal/advice"
	"activator/internal/config"
	"activator/internal/spec"
)

// Try runs the one service of a configuration with everything that it lacks told, lets a client in, and writes to w its
// file with the least added by which it would have lacked nothing. It returns when the program has ended, or ctx is done.
func Try(ctx context.Context, o Options, w io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t := &trial{end: cancel}
	o.trial = t
	if err := Run(ctx, o, nil); err != nil {
		return err
	}
	_, err := w.Write(t.describe())
	return err
}

// trial is a service that is run to find out what it lacks.
type trial struct {
	end    func() // ends it
	source config.Source
	conf   spec.Service // the source's

	mu      sync.Mutex
	found   []spec.Finding
	run     advice.Run
	clients []net.Conn
}

// take takes the service that is tried, with the files that its arguments name.
func (t *trial) take(sources []config.Source) ([]config.Source, error) {
	if len(sources) != 1 {
		return nil, fmt.Errorf("try: %d services: it is for one", len(sources))
	}
	if sources[0].Service.Container != nil {
		return nil, fmt.Errorf("try: %s: a container's program has no sandbox of ours: see what its engine says", sources[0].Service.Name)
	}
	t.source, t.conf = sources[0], sources[0].Service
	sources[0].Service = advice.MountArguments(t.conf).Service
	return sources, nil
}

// Found implements [service.Trial].
func (t *trial) Found(f spec.Finding) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.found = append(t.found, f)
}

// Ended implements [service.Trial].
func (t *trial) Ended(failed bool) {
	t.mu.Lock()
	t.run.Failed = t.run.Failed || failed
	t.mu.Unlock()
	t.end()
}

// letIn connects a client to each socket that takes connections, by which the program is started. They say nothing and no
// more, so that a program with one client at a time goes on to the next; one that accepts nobody has them until the end.
func (t *trial) letIn(log *slog.Logger) {
	for _, socket := range t.conf.Sockets {
		a := socket.Address
		if !a.IsTCP() && a.Network != spec.Unix && a.Network != spec.UnixPacket {
			continue
		}
		network, at := string(a.Network), a.Path
		if a.IsTCP() {
			at = net.JoinHostPort(clientHost(a), fmt.Sprint(a.Port))
		}
		c, err := net.Dial(network, at)
		if err != nil {
			log.Warn("no client let in", "socket", a.String(), "err", err)
			continue
		}
		t.clients = append(t.clients, c)
		if half, ok := c.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}
	text := "trying: use it as its clients do, and press ^C: then the configuration is printed that it needs"
	if len(t.clients) == 0 {
		text = "trying: its first client starts it; use it as its clients do, and press ^C: then the configuration is printed that it needs"
	}
	log.Info(text)
}

// clientHost is where a client of this machine connects to.
func clientHost(a spec.Address) string {
	four, _ := a.Families()
	switch {
	case a.IP.IsValid() && !a.IP.IsUnspecified():
		return a.IP.String()
	case four:
		return "127.0.0.1"
	}
	return "::1"
}

// look notes whether clients wait in vain.
func (t *trial) look(members map[string]*member) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range members {
		for _, socket := range m.sockets {
			waiting, _ := socket.WaitingClients()
			t.run.Deaf = t.run.Deaf || len(waiting) > 0
		}
	}
	for _, c := range t.clients {
		_ = c.Close()
	}
}

// describe writes the configuration that is proposed.
func (t *trial) describe() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	named := advice.MountArguments(t.conf)
	p := advice.Propose(named.Service, t.found, t.run)
	for key, why := range named.Why {
		p.Why[key] = append(why, p.Why[key]...)
	}
	b := withoutRemarks(t.source.AppendEdited(nil, p.Service, func(key string) []string { return p.Why[key] }))
	if len(p.Remarks) > 0 {
		b = append(b, '\n')
		b = config.AppendComments(b, append([]string{remarksTitle}, p.Remarks...))
	}
	return b
}

const remarksTitle = "Not in it, since it may do without, or since no key opens it:"

// withoutRemarks is a text without the remarks of an earlier run, and with the end of its last line.
func withoutRemarks(text []byte) []byte {
	var b []byte
	remarks := false
	for line := range bytes.Lines(text) {
		line = bytes.TrimRight(line, "\n")
		remarks = bytes.Equal(bytes.TrimSpace(line), []byte("# "+remarksTitle)) || remarks && bytes.HasPrefix(line, []byte("#"))
		switch {
		case !remarks:
			b = append(append(b, line...), '\n')
		case bytes.HasSuffix(b, []byte("\n\n")):
			b = b[:len(b)-1]
		}
	}
	return b
}
