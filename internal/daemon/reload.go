package daemon

import (
	"context"
	"errors"
	"log/slog"
	"reflect"

	"activator/internal/config"
	"activator/internal/kernel/budget"
	"activator/internal/listen"
	"activator/internal/spec"
)

// change is what a new configuration asks for, by name: services that are the
// same go on untouched, with the program that runs.
type change struct {
	start []planned                 // added, or changed
	end   []*member                 // removed, or changed
	pool  map[string]*listen.Socket // the open sockets of those that end, by address
	ready map[string]*listen.Socket // what those that start find open, by address
}

// reload reads the configuration again. If it has an error, or a new address or option is
// refused, everything stays as it is. A changed service is stopped as at the end (stop_signal,
// stop_timeout). Its clients wait in the queues of the sockets, which stay open. Some sockets can
// be bound only when an old one is closed: if that fails, the service goes on as it was. In any
// case the nodes of all sockets are looked at, and files that services print to are opened again if they
// were moved.
func (d *Daemon) reload(ctx context.Context) {
	for _, m := range d.members {
		m.touched()
	}
	d.sink.Reopen()
	sources, err := loadConfig(ctx, config.LoadAgain, d.options.Paths)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		d.tellRefused(err)
		return
	}
	sources = withoutAbsent(sources, d.tellAbsent)
	c, changed := d.compareConfig(sources)
	if c.start, err = newExamination(d.starter, d.restrictions, d.ownsPath).planServices(ctx, changed, sources); err != nil {
		d.tellRefused(err)
		return
	}
	if err = c.openFresh(ctx, d.restrictions.Means()); err != nil {
		d.tellRefused(placeError(err, c.start))
		return
	}
	if !d.endAll(ctx, c.end) {
		closeUnused(c.ready)
		return
	}
	d.keepSockets(c)
	for _, m := range c.end {
		d.closeSockets(m) // those that are not kept, before others are opened in their place
	}
	started := 0
	for _, p := range c.start {
		if d.restartService(ctx, p, c) {
			started++
		}
	}
	closeUnused(c.ready) // of services that could not be started
	budget.ReserveFor(len(d.members))
	d.log.Info("configuration reloaded", "services", len(d.members), "started", started, "ended", len(c.end))
}

// tellRefused logs why a reload is refused: a line for each finding, and a last one for the
// reload.
func (d *Daemon) tellRefused(err error) {
	logError(d.log, "configuration not reloaded: everything stays as it is", err)
}

// logError logs an error: a line for each finding in it, and a last one that says what it led to.
func logError(log *slog.Logger, led string, err error) {
	found := listFindings(err)
	for _, attributes := range found {
		log.Error("configuration error", attributes...)
	}
	if len(found) == 0 {
		log.Error(led, "err", err)
		return
	}
	log.Error(led, "errors", len(found))
}

// listFindings returns the attributes of each error in the log, without unknown ones.
func listFindings(err error) (all [][]any) {
	var found config.Errors
	if !errors.As(err, &found) {
		return nil
	}
	for _, e := range found {
		var attributes []any
		if e.File != "" {
			attributes = append(attributes, "file", e.File)
		}
		if e.Line != 0 {
			attributes = append(attributes, "line", e.Line, "column", e.Column)
		}
		if e.Key != "" {
			attributes = append(attributes, "key", e.Key)
		}
		attributes = append(attributes, "text", e.Text)
		if e.Cure != "" {
			attributes = append(attributes, "cure", e.Cure)
		}
		all = append(all, attributes)
	}
	return all
}

// serviceFinding returns the attributes for a service that could not be started.
func serviceFinding(p planned, err error) []any {
	if found := listFindings(placeError(err, []planned{p})); len(found) == 1 {
		return append([]any{"service", p.spec.Name}, found[0]...)
	}
	return []any{"service", p.spec.Name, "err", err}
}

// compareConfig compares the new configuration with the running services. It also returns the
// services that have to be started.
func (d *Daemon) compareConfig(sources []config.Source) (c change, changed []config.Source) {
	c = change{pool: make(map[string]*listen.Socket), ready: make(map[string]*listen.Socket)}
	named := make(map[string]bool, len(sources))
	for _, source := range sources {
		conf := source.Service
		named[conf.Name] = true
		m := d.members[conf.Name]
		if m != nil && reflect.DeepEqual(m.plan.source.Service, conf) {
			continue
		}
		changed = append(changed, source)
		if m != nil {
			c.end = append(c.end, m)
		}
	}
	for name, m := range d.members {
		if !named[name] {
			c.end = append(c.end, m)
		}
	}
	for _, m := range c.end {
		for _, socket := range m.sockets {
			c.pool[socket.String()] = socket
		}
	}
	return c, changed
}

// ownsPath reports whether a socket of ours made what stands at a path.
func (d *Daemon) ownsPath(path string) bool {
	for _, m := range d.members {
		for _, socket := range m.sockets {
			if listen.MakesPath(socket.Spec(), path) {
				return true
			}
		}
	}
	return false
}

// openFresh opens the new addresses, all or none. One that overlaps with a socket of ours is bound
// later, when the old one is closed. Its options have been examined.
func (c change) openFresh(ctx context.Context, means listen.Means) error {
	var specs []spec.Socket
	for _, p := range c.start {
		for _, socket := range p.spec.Sockets {
			if !c.isOccupied(socket) {
				specs = append(specs, socket)
			}
		}
	}
	sockets, err := listen.OpenAll(ctx, specs, means)
	if err != nil {
		return err
	}
	for _, s := range sockets {
		c.ready[s.String()] = s
	}
	return nil
}

// isOccupied reports whether a socket of a service that ends is in socket's way.
func (c change) isOccupied(socket spec.Socket) bool {
	for _, old := range c.pool {
		if listen.MayOverlap(socket, old.Spec()) {
			return true
		}
	}
	return false
}

// endAll ends services side by side. It is false if ctx was done first; the services end in any
// case.
func (d *Daemon) endAll(ctx context.Context, members []*member) bool {
	for _, m := range members {
		m.stop()
	}
	for _, m := range members {
		select {
		case <-m.done:
		case <-ctx.Done():
			return false
		}
	}
	for _, m := range members {
		delete(d.members, m.plan.spec.Name)
	}
	return true
}

// keepSockets moves the sockets that the new configuration can use as they are, from the services
// that end to the ones that start.
func (d *Daemon) keepSockets(c change) {
	for _, p := range c.start {
		for _, socket := range p.spec.Sockets {
			key := socket.Address.String()
			old := c.pool[key]
			if old == nil {
				continue
			}
			if !old.AdoptSpec(socket) {
				d.log.Warn("socket bound anew for the new configuration: clients that wait at it are cut off", "service", p.spec.Name, "socket", key)
				continue
			}
			disownSocket(c.end, old)
			d.watcher.ForgetSocket(old)
			c.ready[key] = old
		}
	}
}

// restartService starts a service with the sockets that are open already, and binds the rest, for
// which an old one was in the way. If one cannot be bound, the service goes on as it was, and the result
// is false.
func (d *Daemon) restartService(ctx context.Context, p planned, c change) bool {
	sockets, err := c.obtainSockets(ctx, p, d.restrictions.Means())
	if err == nil {
		d.startService(p, sockets)
		return true
	}
	for _, m := range c.end {
		if m.plan.spec.Name != p.spec.Name {
			continue
		}
		if sockets, again := c.obtainSockets(ctx, m.plan, d.restrictions.Means()); again == nil {
			d.startService(m.plan, sockets)
			d.log.Error("service not reloaded: it goes on as before", serviceFinding(p, err)...)
			return false
		}
	}
	d.log.Error("service not reloaded: it is off until the next reload", serviceFinding(p, err)...)
	return false
}

// obtainSockets returns the sockets of p, open, all or none. On error the ready ones stay ready.
func (c change) obtainSockets(ctx context.Context, p planned, means listen.Means) ([]*listen.Socket, error) {
	var missing []spec.Socket
	for _, socket := range p.spec.Sockets {
		if s := c.ready[socket.Address.String()]; s == nil || !s.AdoptSpec(socket) {
			missing = append(missing, socket)
		}
	}
	opened, err := listen.OpenAll(ctx, missing, means)
	if err != nil {
		return nil, err
	}
	sockets := make([]*listen.Socket, 0, len(p.spec.Sockets))
	for _, socket := range p.spec.Sockets {
		if len(opened) > 0 && opened[0].Spec().Address == socket.Address {
			sockets, opened = append(sockets, opened[0]), opened[1:]
			continue
		}
		key := socket.Address.String()
		sockets = append(sockets, c.ready[key])
		delete(c.ready, key)
	}
	return sockets, nil
}

// disownSocket takes a socket from the member that had it.
func disownSocket(members []*member, socket *listen.Socket) {
	for _, m := range members {
		for i, s := range m.sockets {
			if s == socket {
				m.sockets = append(m.sockets[:i:i], m.sockets[i+1:]...)
				return
			}
		}
	}
}
