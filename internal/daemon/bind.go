package daemon

import (
	"activator/internal/config"
	"activator/internal/listen"
	"activator/internal/sandbox"
	"activator/internal/supervise"
)

// binding says what the program binds in place of which socket.
//
// A sealed program that may not connect can do one thing with a socket that stands in
// for the one it was judged by: bind it. Landlock refuses that where it is TCP and
// no other protocol with connections.
func binding(conf config.Service) supervise.Binding {
	var b supervise.Binding
	guarded := sandbox.Running().TCP()
	for _, s := range conf.Sockets {
		// Checked when it was read.
		target, _ := listen.ParseAddress(s.Target)
		b.Targets = append(b.Targets, target)
		guarded = guarded && !s.Options.MPTCP
	}
	b.NoPaths = !guarded && conf.Sandbox.Seal != "off" && conf.Sandbox.Connect == "none"
	return b
}
