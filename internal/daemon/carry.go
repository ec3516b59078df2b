package daemon

import (
	"activator/internal/config"
	"activator/internal/listen"
	"activator/internal/supervise"
)

// carrying says where the connections of which socket are carried to.
func carrying(conf config.Service) supervise.Carrying {
	c := supervise.Carrying{Idle: conf.ConnTimeout}
	for _, s := range conf.Sockets {
		// Checked when it was read.
		target, _ := listen.ParseAddress(s.Target)
		c.Targets = append(c.Targets, target)
	}
	if conf.MaxConnsSet {
		c.MaxConns = conf.MaxConns
	}
	if conf.ProxyProtocol != "none" {
		c.Protocol = conf.ProxyProtocol
	}
	return c
}
