package sockopt

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// The priority that was asked for is there again after whatever order a service sets it and
// IP_TOS in.
func TestRestorePriority(t *testing.T) {
	for _, kind := range []string{"udp4", "tcp6"} {
		for _, before := range [][]setting{{tos(0x10), prio(3)}, {tos(0), prio(3)}, {tos(0x10), prio(0)}} {
			for _, theirs := range [][]setting{{tos(0x08)}, {tos(0x08), prio(5)}, {prio(5), tos(0x08)}, {tos(0)}, {prio(6)}} {
				fd := open(t, kind)
				set(t, fd, before...)
				state := RecordState(fd)
				set(t, fd, theirs...)
				if _, stuck := state.Restore(fd); stuck != "" {
					t.Errorf("stuck: %s", stuck)
				}
				wants(t, fd, before...)
			}
		}
	}
}

// One that is restored is named, once; a second time there is nothing to do.
func TestRestoreNames(t *testing.T) {
	fd := open(t, "udp4")
	state := RecordState(fd)
	set(t, fd, tos(0x10), setting{unix.SOL_SOCKET, unix.SO_BROADCAST, 1})
	if changed, stuck := state.Restore(fd); fmt.Sprint(changed) != "[SO_BROADCAST IP_TOS]" || stuck != "" {
		t.Errorf("%v, %q", changed, stuck)
	}
	if changed, stuck := state.Restore(fd); len(changed) != 0 || stuck != "" {
		t.Errorf("%v, %q", changed, stuck)
	}
}
