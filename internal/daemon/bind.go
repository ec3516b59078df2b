package daemon

import (
	"activator/internal/config"
	"activator/internal/listen"
	"activator/internal/supervise"
)

// binding says what the program binds in place of which socket.
func binding(conf config.Service) supervise.Binding {
	var b supervise.Binding
	for _, s := range conf.Sockets {
		// Checked when it was read.
		target, _ := listen.ParseAddress(s.Target)
		b.Targets = append(b.Targets, target)
	}
	return b
}
