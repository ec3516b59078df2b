package sockopt

import (
	"encoding/binary"
	"fmt"
	"time"

	"activator/internal/spec"
)

// Key is how the configuration sets an option. An option of IP that has another name in
// IPv6 has two rows with one key: a dual-stack socket needs both.
type Key struct {
	Name string // of [[socket]]; "": set without being asked for

	ask     func(*spec.Socket) ([]byte, error) // what to write; nil: it is not asked for
	needs   string                             // the privilege that EPERM asks for
	relayed bool                               // a relay socket has it too: see SetRelayed
	newer   bool                               // a kernel that has it not does without
}

func (k *Key) needing(privilege string) *Key { k.needs = privilege; return k }
func (k *Key) onRelay() *Key                 { k.relayed = true; return k }

// boolKey is an option that is switched on.
func boolKey(name string, asked func(*spec.Options) bool) *Key {
	return givenKey(name, func(o *spec.Options) (int, bool) { return 1, asked(o) })
}

// numberKey is an option with a value; asked for when that is not 0.
func numberKey(name string, value func(*spec.Options) int) *Key {
	return givenKey(name, func(o *spec.Options) (int, bool) { n := value(o); return n, n != 0 })
}

// givenKey is an option with a value that may be 0.
func givenKey(name string, value func(*spec.Options) (n int, asked bool)) *Key {
	return &Key{Name: name, ask: func(s *spec.Socket) ([]byte, error) {
		if n, asked := value(&s.Options); asked {
			return encodeWord(n), nil
		}
		return nil, nil
	}}
}

// textKey is an option that is a name; asked for when that is not empty.
func textKey(name string, value func(*spec.Options) string) *Key {
	return &Key{Name: name, ask: func(s *spec.Socket) ([]byte, error) {
		if t := value(&s.Options); t != "" {
			return []byte(t), nil
		}
		return nil, nil
	}}
}

func encodeWord(n int) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }

func wholeSeconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

// The keys that are more than a value, or of two rows.
var (
	freeBind    = boolKey("free_bind", func(o *spec.Options) bool { return o.FreeBind })
	transparent = boolKey("transparent", func(o *spec.Options) bool { return o.Transparent }).needing("CAP_NET_ADMIN or CAP_NET_RAW")
	packetInfo  = boolKey("pass_packet_info", func(o *spec.Options) bool { return o.PassPacketInfo }).onRelay()
	ipTOS       = givenKey("ip_tos", func(o *spec.Options) (int, bool) { return o.IPTOS, o.IPTOSSet }).needing("CAP_NET_ADMIN")
	ipTTL       = numberKey("ip_ttl", func(o *spec.Options) int { return o.IPTTL })

	// As systemd: else the connections of the last run that sit in TIME_WAIT block
	// the port for a minute.
	reuseAddress = &Key{ask: func(s *spec.Socket) ([]byte, error) { return wordIf(s.Address.IsTCP(), 1), nil }}

	// A relay asks for the sender, and that of the first datagram too, which comes before it.
	passCredentials = &Key{Name: "pass_credentials", ask: func(s *spec.Socket) ([]byte, error) {
		return wordIf(s.Options.PassCredentials || s.Seal == spec.Relayed && s.Address.Network == spec.UnixGram, 1), nil
	}}

	// Before Linux 6.16 it is done without, see listen.CanRefuseRights.
	passRights = &Key{Name: "pass_rights", newer: true, ask: func(s *spec.Socket) ([]byte, error) {
		return wordIf(s.Options.RefuseRights, 0), nil
	}}

	bindIPv6Only = &Key{Name: "bind_ipv6_only", ask: ipv6Only}
)

func wordIf(asked bool, n int) []byte {
	if !asked {
		return nil
	}
	return encodeWord(n)
}

// ipv6Only is explicit about the wildcard: net.ipv6.bindv6only shall not
// decide which clients are served.
func ipv6Only(s *spec.Socket) ([]byte, error) {
	a := s.Address
	switch {
	case !a.IsInternet():
		return nil, nil
	case s.Mapped:
		return encodeWord(0), nil
	}
	switch only := s.Options.BindIPv6Only; only {
	case "":
		if !a.IP.IsValid() && (a.Network == spec.TCP || a.Network == spec.UDP) {
			return encodeWord(0), nil
		}
		return encodeWord(1), nil
	case "both":
		if a.Network == spec.TCP6 || a.Network == spec.UDP6 {
			return nil, fmt.Errorf("%q contradicts %s://, which is IPv6 alone", only, a.Network)
		}
		return encodeWord(0), nil
	case "ipv6-only":
		return encodeWord(1), nil
	case "default":
		return nil, nil
	default:
		return nil, fmt.Errorf(`%q is none of "default", "both", "ipv6-only"`, only)
	}
}

// stampsKey is the key of a form of timestamps.
func stampsKey(form string) *Key {
	return (&Key{Name: "timestamping", ask: func(s *spec.Socket) ([]byte, error) {
		switch asked := s.Options.Timestamping; asked {
		case "", "off", "us", "ns":
			return wordIf(asked == form, 1), nil
		default:
			return nil, fmt.Errorf(`%q is none of "off", "us", "ns"`, asked)
		}
	}}).onRelay()
}
