package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"activator/internal/config"
	"activator/internal/container"
	"activator/internal/kernel/budget"
	"activator/internal/listen"
	"activator/internal/output"
	"activator/internal/process"
	"activator/internal/sandbox"
	"activator/internal/seal"
	"activator/internal/service"
	"activator/internal/spec"
)

// Options are what the command line says.
type Options struct {
	Paths  []string   // files and folders of configuration
	Format string     // of the log: "text" or "json"
	Level  slog.Level // of the log: the least that is written

	MemoryMax uint64 // of all services together, in bytes; 0: what there is

	trial *trial // see [Try]; nil: none
}

// Daemon is the set of services of one activator. Its fields belong to the
// goroutine in Run.
type Daemon struct {
	options      Options
	sink         *output.Sink
	log          *slog.Logger
	starter      *process.Starter
	restrictions *seal.Restrictions
	watcher      *listen.Watcher
	slots        *service.Slots
	members      map[string]*member
	groups       groups
}

// member is one service and what belongs to it. The daemon owns the sockets, the
// service borrows them while it runs.
type member struct {
	plan    planned
	sockets []*listen.Socket
	touched func() // has its nodes looked at
	stop    context.CancelFunc
	done    chan struct{} // closed when the service is gone
}

// Run serves until ctx is done: it reads the configuration, opens every socket
// (all or none), runs the services, and reads the configuration again whenever
// reload says so. Everything it opened and started is gone when it returns. An
// error that is a [config.Errors] means that nothing was opened: it has everything
// that is wrong, as [Check] says it.
func Run(ctx context.Context, o Options, reload <-chan os.Signal) (err error) {
	defer func() { err = sandbox.AddCure(err) }()
	sources, err := loadConfig(ctx, config.Load, o.Paths)
	if err != nil {
		return err
	}
	sink := output.NewSink(os.Stderr, o.Format, o.Level)
	defer sink.Close()
	d := &Daemon{options: o, sink: sink, log: sink.Logger(), members: make(map[string]*member)}
	sources = withoutAbsent(sources, d.tellAbsent)
	if o.trial != nil {
		if sources, err = o.trial.take(sources); err != nil {
			return err
		}
	}
	d.slots = service.NewSlots(warmAtOnce(), warmRoom())
	defer d.groups.closeTree() // when every process has ended
	if d.starter, err = process.NewStarter(); err != nil {
		return err
	}
	defer d.starter.Close()
	d.starter.Warn = func(service, text string) { d.log.Warn(text, "service", service) }
	d.restrictions = seal.New(d.log)
	defer d.restrictions.Close()
	plans, err := newExamination(d.starter, d.restrictions, nil).planServices(ctx, sources, sources)
	if err != nil {
		return err
	}
	if d.watcher, err = listen.NewWatcher(d.log); err != nil {
		return err
	}
	defer d.watcher.Close()
	return d.runServices(ctx, plans, reload)
}

func (d *Daemon) runServices(ctx context.Context, services []planned, reload <-chan os.Signal) error {
	if err := clearContainers(ctx, services); err != nil {
		return err
	}
	sockets, err := d.openAll(ctx, services)
	if err != nil {
		return err
	}
	watching, unwatch := context.WithCancel(context.Background())
	watched := make(chan error, 1)
	go func() { watched <- d.watcher.Run(watching) }()
	defer func() {
		unwatch()
		<-watched
	}()
	defer d.endServices()
	for _, p := range services {
		n := len(p.spec.Sockets)
		d.startService(p, sockets[:n:n])
		sockets = sockets[n:]
	}
	clear(services)      // each is in its member, without the places of its keys
	debug.FreeOSMemory() // now, instead of little by little while idle
	d.log.Info("activator ready", "services", len(services), "pid", os.Getpid())
	budget.ReserveFor(len(services))
	d.slots.OpenSlots()
	if d.options.trial != nil {
		d.options.trial.letIn(d.log)
	}
	for {
		select {
		case <-ctx.Done():
			if d.options.trial != nil {
				d.options.trial.look(d.members)
			}
			d.log.Info("activator stopping")
			return nil
		case err := <-watched:
			watched <- err
			return fmt.Errorf("watch sockets: %w", err)
		case <-reload:
			d.reload(ctx)
		}
	}
}

// errEnded is the error of a configuration that nobody waits for any more.
var errEnded = errors.New("ended before the configuration was read")

// loadConfig reads the configuration by load. When ctx is done first, the reading stays behind until the file system or the writer
// of a pipe answers: we end.
func loadConfig(ctx context.Context, load func([]string, config.Env) ([]config.Source, error), paths []string) (sources []config.Source, err error) {
	loaded := make(chan func(), 1)
	go func() {
		read, failed := load(paths, config.HostEnv())
		loaded <- func() { sources, err = read, failed }
	}()
	select {
	case keep := <-loaded:
		keep()
		return sources, err
	case <-ctx.Done():
		return nil, errEnded
	}
}

// clearContainers removes the containers that a killed activator has left behind: they may have
// our sockets.
func clearContainers(ctx context.Context, services []planned) error {
	for _, p := range services {
		if p.engine != nil {
			if err := p.engine.Clear(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// openAll opens the sockets of all services, in order, all or none.
func (d *Daemon) openAll(ctx context.Context, services []planned) ([]*listen.Socket, error) {
	var specs []spec.Socket
	for _, p := range services {
		specs = append(specs, p.spec.Sockets...)
	}
	sockets, err := listen.OpenAll(ctx, specs, d.restrictions.Means())
	return sockets, placeError(err, services)
}

// startService runs a service. It takes sockets.
func (d *Daemon) startService(p planned, sockets []*listen.Socket) {
	conf := p.source.Service
	if conf.Sandbox.Network == "host" {
		d.log.Warn("service shares the host's network: network = \"host\"", "service", conf.Name)
	}
	if conf.Container != nil && !container.HasCgroups() {
		d.log.Info("service runs in a container without cgroups of its own: for limits of memory and processes write options", "service", conf.Name)
	}
	for _, odd := range slices.Concat(findBeside(conf), findFIFOs(p.source)) {
		d.log.Warn(odd, "service", conf.Name)
	}
	for _, lack := range p.open.Lacks {
		d.log.Warn("seal incomplete: seal = \"best-effort\"", "service", conf.Name, "open", lack)
	}
	if len(p.open.Lesser) > 0 {
		d.log.Info("service kept by less than elsewhere", "service", conf.Name, "open", strings.Join(p.open.Lesser, "; "))
	}
	p.spec.ID = sandbox.ServiceID(conf.Name, d.hasID)
	around := service.Surroundings{
		Starter: d.starter,
		Watcher: d.watcher,
		Sink:    d.sink,
		Slots:   d.slots,
	}
	if p.engine != nil {
		around.Engine = p.engine
	}
	if d.options.trial != nil {
		around.Trial = d.options.trial
	}
	around.Group = d.openGroup(&p.spec)
	running := service.New(p.spec, around, sockets)
	id := 0
	if conf.User == "" && os.Geteuid() == 0 && conf.Container == nil && process.LacksID(p.spec.Process) == "" {
		id = p.spec.ID
	}
	for _, socket := range sockets {
		d.restrictions.Use(socket.Spec().Address, id)
		if err := d.watcher.WatchNode(socket, running.NodeTouched); err != nil {
			d.log.Warn("node not watched: it is not put back when somebody deletes it", "service", conf.Name, "socket", socket.String(), "err", err)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	p.source = p.source.WithoutPlaces()
	m := &member{plan: p, sockets: sockets, touched: running.NodeTouched, stop: stop, done: make(chan struct{})}
	d.members[conf.Name] = m
	go func() {
		defer close(m.done)
		running.Run(ctx)
		if around.Group != nil {
			around.Group.Close()
		}
	}()
}

// hasID reports whether a service has the user id. Two services with one id could signal each
// other, and read each other's directories.
func (d *Daemon) hasID(id int) bool {
	for _, m := range d.members {
		if m.plan.spec.ID == id {
			return true
		}
	}
	return false
}

// endServices ends all services side by side, and then closes their sockets: a client that comes
// meanwhile waits in a queue until it is closed.
func (d *Daemon) endServices() {
	for _, m := range d.members {
		m.stop()
	}
	for name, m := range d.members {
		<-m.done
		delete(d.members, name)
		d.closeSockets(m)
	}
	d.log.Info("activator stopped")
}

// closeSockets closes the sockets of a member that has ended.
func (d *Daemon) closeSockets(m *member) {
	for _, socket := range m.sockets {
		d.watcher.ForgetSocket(socket)
		if err := socket.Close(); err != nil {
			d.log.Warn("socket not closed cleanly", "service", m.plan.spec.Name, "socket", socket.String(), "err", err)
		}
	}
	m.sockets = nil
}

func closeUnused(sockets map[string]*listen.Socket) {
	for _, s := range sockets {
		_ = s.Close() // another error is being returned
	}
}

// LogError writes the error of [Run] to the log, for a reader that wants nothing else there.
func LogError(o Options, err error) {
	sink := output.NewSink(os.Stderr, o.Format, o.Level)
	defer sink.Close()
	led := "activator failed"
	if IsConfiguration(err) {
		led = "activator not started"
	}
	logError(sink.Logger(), led, err)
}

// IsConfiguration reports whether err was found before anything was opened: it is printed as it
// is. Other errors come from the run.
func IsConfiguration(err error) bool {
	var list config.Errors
	return errors.As(err, &list)
}

// IsCurable reports whether an error that was found before anything was opened can be cured in
// the configuration, not on the host alone.
func IsCurable(err error) bool { return config.IsCurable(err) }
