package daemon

import (
	"activator/internal/config"
	"activator/internal/supervise"
)

// binding says what the program binds in place of which socket.
func binding(conf config.Service) supervise.Binding {
	var b supervise.Binding
	for _, s := range conf.Sockets {
		b.Targets = append(b.Targets, s.Target)
	}
	return b
}
