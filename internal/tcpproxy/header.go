package tcpproxy

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
)

// The PROXY protocol tells the program the client's address: a header before the
// first byte. https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt

// mostHeader is more bytes than any header has: 107 of version 1, section 2.1.
const mostHeader = 128

// checkProtocol is the reading of Options.Protocol.
func checkProtocol(version string) error {
	switch version {
	case "", "v1", "v2":
		return nil
	}
	return fmt.Errorf(`PROXY protocol %q is unknown: use "v1" or "v2"`, version)
}

// appendHeader appends the header for a client at from that asked for to. Clients of
// unix sockets are announced without address: the family that v2 has for them tells
// nothing (such clients have no name), and nginx before 1.23 has no room for it.
func appendHeader(b []byte, version string, from, to netip.AddrPort) []byte {
	switch version {
	case "v1":
		return appendV1(b, from, to)
	case "v2":
		return appendV2(b, from, to)
	}
	return b
}

// appendV1 is section 2.1.
func appendV1(b []byte, from, to netip.AddrPort) []byte {
	source, target, ok := pairAddresses(from, to)
	if !ok {
		return append(b, "PROXY UNKNOWN\r\n"...)
	}
	b = append(b, "PROXY TCP4 "...)
	if source.Is6() {
		b[len(b)-2] = '6'
	}
	b = append(source.AppendTo(b), ' ')
	b = append(target.AppendTo(b), ' ')
	b = append(strconv.AppendUint(b, uint64(from.Port()), 10), ' ')
	b = strconv.AppendUint(b, uint64(to.Port()), 10)
	return append(b, "\r\n"...)
}

// appendV2 is section 2.2: signature, version 2 and command PROXY, family and
// protocol STREAM (or UNSPEC), length, addresses, ports.
func appendV2(b []byte, from, to netip.AddrPort) []byte {
	b = append(b, "\r\n\r\n\x00\r\nQUIT\n\x21"...)
	source, target, ok := pairAddresses(from, to)
	if !ok {
		return append(b, 0x00, 0, 0)
	}
	family := byte(0x11)
	if source.Is6() {
		family = 0x21
	}
	b = append(b, family)
	b = binary.BigEndian.AppendUint16(b, uint16(2*source.BitLen()/8+4))
	b = append(b, source.AsSlice()...)
	b = append(b, target.AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, from.Port())
	return binary.BigEndian.AppendUint16(b, to.Port())
}

// pairAddresses is both addresses in one family, without zones; false where there is none.
func pairAddresses(from, to netip.AddrPort) (source, target netip.Addr, ok bool) {
	source, target = from.Addr().Unmap().WithZone(""), to.Addr().Unmap().WithZone("")
	return source, target, source.IsValid() && source.BitLen() == target.BitLen()
}
