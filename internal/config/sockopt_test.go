package config

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockopt"
)

// noOptions are the keys of [[socket]] that are not an option of the kernel's socket.
const noOptions = " listen name backlog socket_mode socket_user socket_group directory_mode remove_on_stop symlinks mptcp pipe_size non_blocking target "

// Every key of [[socket]] that is a socket option has its row in the table, one for each level
// (of timestamps, one for each form), and every key of the table is one of ours.
func TestSocketOptionsAreRows(t *testing.T) {
	rows, levels := map[string]int{}, map[string]map[int]bool{}
	for _, o := range sockopt.Table {
		if o.Key == nil || o.Key.Name == "" {
			continue
		}
		name := o.Key.Name
		if levels[name] == nil {
			levels[name] = map[int]bool{}
		}
		if levels[name][o.Level] && name != "timestamping" {
			t.Errorf("%s: two rows of one level", name)
		}
		rows[name]++
		levels[name][o.Level] = true
	}
	for _, f := range socketKeys() {
		if option := !strings.Contains(noOptions, " "+f.key+" "); option != (rows[f.key] > 0) {
			t.Errorf("%s: %d rows: a key is a row of the table in kernel/sockopt, or no socket option", f.key, rows[f.key])
		}
		delete(rows, f.key)
	}
	for name := range rows {
		t.Errorf("%s is a row, and no key", name)
	}
}

// socketsOf are what socket(2) is asked for, by address.
var socketsOf = map[string][2]int{
	"tcp4://:80": {unix.AF_INET, unix.SOCK_STREAM}, "tcp://:80": {unix.AF_INET6, unix.SOCK_STREAM},
	"udp4://:80": {unix.AF_INET, unix.SOCK_DGRAM}, "udp://:80": {unix.AF_INET6, unix.SOCK_DGRAM}, "vsock://:80": {unix.AF_VSOCK, unix.SOCK_STREAM},
	"unix://@a": {unix.AF_UNIX, unix.SOCK_STREAM}, "unixgram://@a": {unix.AF_UNIX, unix.SOCK_DGRAM}, "unixpacket://@a": {unix.AF_UNIX, unix.SOCK_SEQPACKET},
}

// Where a key has a meaning, the kernel has the option, and takes every sample.
func TestKeysFitTheirSockets(t *testing.T) {
	for key, values := range samples["socket"] {
		if strings.Contains(noOptions, " "+key+" ") {
			continue
		}
		tried := 0
		for address, family := range socketsOf {
			for _, v := range values {
				tried += fits(t, key, v, address, family)
			}
		}
		if tried < len(values) {
			t.Errorf("%s: %d sockets for %d samples", key, tried, len(values))
		}
	}
}

func fits(t *testing.T, key, v, address string, family [2]int) (tried int) {
	t.Helper()
	text := "[[socket]]\nlisten = [\"" + address + "\"]\n" + key + " = " + v + "\n"
	if strings.HasPrefix(key, "keep_alive_") {
		text += "keep_alive = true\n"
	}
	service, err := parseText("web.toml", []byte(text+"[service]\nexec = [\"/bin/true\"]\n"), somewhere)
	if err != nil {
		return 0 // it has no meaning there, as other tests say
	}
	fd, err := unix.Socket(family[0], family[1]|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Logf("%s: %v", address, err)
		return 0
	}
	defer unix.Close(fd)
	err = sockopt.SetOptions(fd, &service.Sockets[0], sockopt.Password{})
	if privileged := errors.Is(err, unix.EPERM) && os.Geteuid() != 0; err != nil && !privileged {
		t.Errorf("%s %s = %s: %v", address, key, v, err)
	}
	return 1
}
