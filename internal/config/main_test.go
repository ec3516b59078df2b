package config

import (
	"testing"

	"activator/internal/ktest"
)

func TestMain(m *testing.M) { ktest.Main(m) }

// somewhere is a host on which every specifier has a value.
var somewhere = Env{Dir: "/etc/activator", Home: "/home/ann", Runtime: "/run/user/1000", User: "ann", Group: "staff", UID: 1000, GID: 50}

// minimal is the shortest sound file, but for what a test adds to each table.
func minimal(socket, service, sandbox string) string {
	return "[[socket]]\nlisten = [\"tcp://127.0.0.1:80\"]\n" + socket + "\n[service]\nexec = [\"/bin/true\"]\n" + service + "\n[sandbox]\n" + sandbox + "\n"
}
