// Package spec has every plain value of the configuration, once: addresses, sockets and
// their options, what a service is and what it is shut in with.
//
//	address, err := spec.ParseAddress("tcp://127.0.0.1:3000")
//	address == spec.Address{Network: spec.TCP, IP: netip.MustParseAddr("127.0.0.1"), Port: 3000}
//
// It is pure: it asks no kernel, opens nothing and imports nothing of ours. Package config
// makes specs of text, the other rooms make objects of specs. What depends on the running
// kernel happens there.
package spec
