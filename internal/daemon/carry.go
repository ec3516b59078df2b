package daemon

import (
	"activator/internal/config"
	"activator/internal/supervise"
)

// carrying says where the connections of which socket are carried to.
func carrying(conf config.Service) supervise.Carrying {
	c := supervise.Carrying{Idle: conf.ConnTimeout}
	for _, s := range conf.Sockets {
		c.Targets = append(c.Targets, s.Target)
	}
	if conf.MaxConnsSet {
		c.MaxConns = conf.MaxConns
	}
	if conf.ProxyProtocol != "none" {
		c.Protocol = conf.ProxyProtocol
	}
	return c
}
