// Package udprelay carries datagrams between a socket of the host and one that a
// service holds in its place, for services that must not hold the host's.
//
//	var owner netns.Owner
//	relay, err := udprelay.OpenSocketRelay(&owner, host, udprelay.Options{})
//	go relay.Run(ctx)
//	lend(relay.File()) // same family, type and address as the host's
//
// The relay socket lives in a relay network namespace: with nothing in it but
// lo, on which every address is local. For each client a flow socket stands there
// at the client's own address, so that the service sees it and answers to it. What
// the service sends to others stays there.
//
// Package netns makes that namespace, as one of ours: that needs no privilege.
//
// A program that binds a socket of its own network gets the datagrams there: [ProgramRelay].
// Then the flows stand in that network, and what the program has not read when it ends
// is kept for the next one.
//
// It does not decide when a service starts, and it opens no socket of the host.
// Descriptors and credentials that clients send over unix sockets do not pass.
package udprelay
