// Package seal decides which restriction holds which socket of a service, and has them.
//
//	restrictions := seal.New(log)
//	defer restrictions.Close()
//	open := seal.Decide(&service, restrictions.Answering)
//	sockets, err := listen.OpenAll(ctx, service.Sockets, restrictions.Means())
//
// What the service is lent leads inward only: a UDP socket answers by a filter in the
// kernel or through a relay, a unix datagram socket through a relay, and of the rest the
// sandbox takes care, with what Decide has written into it. docs/security.md, "What keeps
// which promise", is the table of it.
package seal
