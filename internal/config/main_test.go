package config

import (
	"testing"

	"activator/internal/ktest"
	"activator/internal/spec"
)

func TestMain(m *testing.M) { ktest.Main(m) }

// somewhere is a host on which every specifier has a value.
var somewhere = Env{Dir: "/etc/activator", Home: "/home/ann", Runtime: "/run/user/1000", User: "ann", Group: "staff", UID: 1000, GID: 50}

// minimal is the shortest sound file, but for what a test adds to each table.
func minimal(socket, service, sandbox string) string {
	return "[[socket]]\nlisten = [\"tcp://127.0.0.1:80\"]\n" + socket + "\n[service]\nexec = [\"/bin/true\"]\n" + service + "\n[sandbox]\n" + sandbox + "\n"
}

// parseText reads the text of the file called name, which gives the service its
// name and is what relative paths are relative to. It is pure. Its error is an
// [Errors] with everything that is wrong.
func parseText(name string, text []byte, env Env) (spec.Service, error) {
	r := parseFile(name, text, env)
	checkCollisions([]*parsed{r})
	if err := r.listErrors().OrNil(); err != nil {
		return spec.Service{}, err
	}
	return r.service, nil
}
