package daemon

import (
	"activator/internal/config"
	"activator/internal/listen"
	"activator/internal/spec"
)

// withoutAbsent leaves out the addresses that no client can reach on this machine: those of
// IPv6 where there is none. It calls tell for each. A service that has no others is left as it
// is, and refused later.
func withoutAbsent(sources []config.Source, tell func(conf spec.Service, address spec.Address)) []config.Source {
	left := make([]config.Source, 0, len(sources))
	for _, source := range sources {
		source, out := source.WithoutSockets(func(s spec.Socket) bool { return listen.IsAbsent(s.Address) })
		for _, socket := range out {
			tell(source.Service, socket.Address)
		}
		left = append(left, source)
	}
	return left
}

// tellAbsent logs an address that is left out.
func (d *Daemon) tellAbsent(conf spec.Service, address spec.Address) {
	d.log.Warn("address left out: this machine has no IPv6", "service", conf.Name, "socket", address.String())
}
