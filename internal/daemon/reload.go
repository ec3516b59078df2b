package daemon

import (
	"context"
	"fmt"
	"reflect"

	"activator/internal/config"
	"activator/internal/listen"
)

// change is what a new configuration asks for, by name: services that are the
// same go on untouched, with the program that runs.
type change struct {
	start []planned                 // added, or changed
	end   []*member                 // removed, or changed
	pool  map[string]*listen.Socket // the open sockets of those that end, by address
}

// reload reads the configuration again. On any error in it, and if a new address
// cannot be had, everything stays as it is. A changed service is stopped as at
// the end (stop_signal, stop_timeout); its clients wait in the queues of the
// sockets, which stay open.
func (d *Daemon) reload(ctx context.Context) {
	services, err := load(d.options.Paths)
	if err != nil {
		d.log.Error("configuration not reloaded: everything stays as it is", "err", err)
		return
	}
	c, changed := d.compare(services)
	if c.start, err = plan(ctx, changed); err != nil {
		d.log.Error("configuration not reloaded: everything stays as it is", "err", err)
		return
	}
	fresh, err := openFresh(c)
	if err != nil {
		d.log.Error("configuration not reloaded: everything stays as it is", "err", err)
		return
	}
	if !d.endAll(ctx, c.end) {
		closeAll(values(fresh))
		return
	}
	for _, p := range c.start {
		d.restart(p, c, fresh)
	}
	closeAll(values(fresh)) // of services that could not be started
	for _, m := range c.end {
		d.close(m)
	}
	d.log.Info("configuration reloaded", "services", len(d.members), "started", len(c.start), "ended", len(c.end))
}

// compare holds the new configuration against what runs, and returns the services
// that have to be started too.
func (d *Daemon) compare(services []config.Service) (c change, changed []config.Service) {
	c = change{pool: make(map[string]*listen.Socket)}
	named := make(map[string]bool, len(services))
	for _, conf := range services {
		named[conf.Name] = true
		m := d.members[conf.Name]
		if m != nil && reflect.DeepEqual(m.conf, conf) {
			continue
		}
		changed = append(changed, conf)
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

// openFresh opens the addresses that nobody has had so far, all or none.
func openFresh(c change) (map[string]*listen.Socket, error) {
	var specs []listen.Spec
	for _, p := range c.start {
		for _, spec := range specsOf(p.conf) {
			if c.pool[spec.Address.String()] == nil {
				specs = append(specs, spec)
			}
		}
	}
	sockets, err := listen.OpenAll(specs)
	if err != nil {
		return nil, err
	}
	fresh := make(map[string]*listen.Socket, len(sockets))
	for _, s := range sockets {
		fresh[s.String()] = s
	}
	return fresh, nil
}

// endAll ends services side by side. It is false if ctx was done first; the
// services end all the same.
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
		delete(d.members, m.conf.Name)
	}
	return true
}

// restart starts a service with the sockets that are open already, the fresh
// ones, and those that had to be bound anew since their options changed.
func (d *Daemon) restart(p planned, c change, fresh map[string]*listen.Socket) {
	sockets := make([]*listen.Socket, 0, len(p.conf.Sockets))
	for _, spec := range specsOf(p.conf) {
		socket, err := d.obtain(spec, c, fresh)
		if err != nil {
			closeAll(sockets)
			d.log.Error("service not reloaded: it is off until the next reload", "service", p.conf.Name, "err", err)
			return
		}
		sockets = append(sockets, socket)
	}
	d.start(p, sockets)
}

// obtain returns the open socket for spec.
func (d *Daemon) obtain(spec listen.Spec, c change, fresh map[string]*listen.Socket) (*listen.Socket, error) {
	key := spec.Address.String()
	if s := fresh[key]; s != nil {
		delete(fresh, key)
		return s, nil
	}
	old := c.pool[key]
	delete(c.pool, key)
	if old == nil {
		return listen.Open(spec)
	}
	disown(c.end, old)
	d.watcher.Forget(old)
	if old.Keep(spec) {
		return old, nil
	}
	if err := old.Close(); err != nil {
		return nil, fmt.Errorf("%v: %w", old, err)
	}
	return listen.Open(spec)
}

// disown takes a socket from the member that had it.
func disown(members []*member, socket *listen.Socket) {
	for _, m := range members {
		for i, s := range m.sockets {
			if s == socket {
				m.sockets = append(m.sockets[:i:i], m.sockets[i+1:]...)
				return
			}
		}
	}
}

func values(m map[string]*listen.Socket) []*listen.Socket {
	var all []*listen.Socket
	for _, s := range m {
		all = append(all, s)
	}
	return all
}
