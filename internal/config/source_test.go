package config

import (
	"strings"
	"testing"

	"activator/internal/spec"
)

// A source without some of its sockets still tells the right places; it is left whole
// where nothing would remain, and where a number would become another socket's.
func TestWithout(t *testing.T) {
	env := HostEnv()
	load := func(exec string) Source {
		file := write(t, t.TempDir(), "web.toml", "[[socket]]\nlisten = [\"tcp://127.0.0.1:1\", \"tcp://[::1]:1\",\n\"tcp://127.0.0.1:2\"]\n[service]\nexec = ["+exec+"]\n")
		sources, err := Load([]string{file}, env)
		if err != nil {
			t.Fatal(err)
		}
		return sources[0]
	}
	six := func(s spec.Socket) bool { return s.Address.IP.Is6() }
	whole := load(`"./web"`)
	left, out := whole.WithoutSockets(six)
	if len(left.Service.Sockets) != 2 || len(out) != 1 || out[0].Address.String() != "tcp://[::1]:1" || len(whole.Service.Sockets) != 3 {
		t.Errorf("left %v, out %v", left.Service.Sockets, out)
	}
	if e := left.Error(Place{Key: "socket.listen", Socket: 1}, "text", ""); e.Line != 3 || !strings.Contains(e.Source, "127.0.0.1:2") {
		t.Errorf("the second that is left: %v", e)
	}
	for name, same := range map[string]func() (Source, []spec.Socket){
		"all":      func() (Source, []spec.Socket) { return whole.WithoutSockets(func(spec.Socket) bool { return true }) },
		"none":     func() (Source, []spec.Socket) { return whole.WithoutSockets(func(spec.Socket) bool { return false }) },
		"numbered": func() (Source, []spec.Socket) { return load(`"./web", "{fd:web:2}"`).WithoutSockets(six) },
	} {
		if left, out := same(); len(left.Service.Sockets) != 3 || len(out) != 0 {
			t.Errorf("%s: left %v, out %v", name, left.Service.Sockets, out)
		}
	}
}
