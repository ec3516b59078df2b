package handover

import (
	"activator/internal/epoll"
	"activator/internal/listen"
	"activator/internal/process"
)

// connection is [Handover] to a program with one client: it is given the client's
// connection with the word to go, as a descriptor or as its stdin and stdout. The sockets never
// enter its sandbox.
type connection struct{ inherit }

func (h *connection) Given() process.Inputs { return h.given() }

func (h *connection) Go(client *listen.Connection) error {
	return h.child.ReleaseWith(client.File, clientEnv(client.Peer))
}

func (h *connection) NewFastPath() (*epoll.FastPath, error) { return nil, nil }

// clientEnv is what the program is told of its client, as in systemd.socket(5),
// Accept=.
func clientEnv(peer listen.Peer) (env []string) {
	for _, v := range [...]struct{ name, value string }{{"REMOTE_ADDR", peer.Addr}, {"REMOTE_PORT", peer.Port}} {
		if v.value != "" {
			env = append(env, v.name+"="+v.value)
		}
	}
	return env
}
