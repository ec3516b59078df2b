package config

import (
	"strings"
	"testing"

	"activator/internal/spec"
)

// edited is a text, and what it becomes when its service changes. The comment of each key is its name.
type edited struct {
	name     string
	from, to string
	change   func(s *spec.Service)
}

func addMount(s *spec.Service) {
	s.Sandbox.ReadOnly = append(s.Sandbox.ReadOnly, spec.Mount{Host: "/new", Inside: "/new"})
}

func setConnect(s *spec.Service) { s.Sandbox.Connect = "any" }

func bindAt(targets ...string) func(s *spec.Service) {
	return func(s *spec.Service) {
		s.Handover = spec.Bind
		for i, text := range targets {
			s.Sockets[i].Target, _ = spec.ParseAddress(text)
		}
	}
}

func editedTexts() []edited {
	const one, service = "[[socket]]\nlisten = ['tcp://:80']\n", "[service]\nexec = ['a']\n"
	return []edited{
		{"nothing", "# mine\n" + one + service + "# end", "# mine\n" + one + service + "# end", func(*spec.Service) {}},
		{"a new table", one + service, one + service + "\n[sandbox]\n# sandbox.connect\nconnect = \"any\"\n", setConnect},
		{"no end of line", one + "[service]\nexec = ['a'] # x", one + "[service]\nexec = ['a'] # x\n\n[sandbox]\n# sandbox.connect\nconnect = \"any\"\n", setConnect},
		{"the end of a table", "[sandbox]\ninit = true # x\n\n# the socket\n" + one + service, "[sandbox]\ninit = true # x\n# sandbox.connect\nconnect = \"any\"\n\n# the socket\n" + one + service, setConnect},
		{"an empty table", one + "[sandbox] # x\n" + service, one + "[sandbox] # x\n# sandbox.connect\nconnect = \"any\"\n" + service, setConnect},
		{"a value", one + service + "[sandbox]\n  connect = 'none' # x\n", one + service + "[sandbox]\n  # sandbox.connect\n  connect = \"any\" # x\n", setConnect},
		{"told already", one + service + "[sandbox]\n# sandbox.connect\nconnect = 'unix'\n", one + service + "[sandbox]\n# sandbox.connect\nconnect = \"any\"\n", setConnect},
		{"lines of Windows", one + service + "[sandbox]\r\ninit = true\r\n", one + service + "[sandbox]\r\ninit = true\r\n# sandbox.connect\r\nconnect = \"any\"\r\n", setConnect},
		{"dotted keys", "service.exec = ['a']\nsandbox.init = true # x\n" + one, "service.exec = ['a']\nsandbox.init = true # x\n# sandbox.connect\nsandbox.connect = \"any\"\n" + one, setConnect},
		{"a table below", one + "[service.limits]\nnofile = 9\n[service]\nexec = [ 'a' ]\n", one + "[service.limits]\nnofile = 9\n[service]\nexec = [ 'a' ]\n# service.syslog\nsyslog = true\n", func(s *spec.Service) { s.Syslog = true }},
		{"an inline table", one + "[service]\nexec = ['a']\nlimits = { nofile = 9 } # x\n", one + "[service]\nexec = ['a']\nlimits = { nofile = 9 } # x\n# service.syslog\nsyslog = true\n", func(s *spec.Service) { s.Syslog = true }},
		{"a name to a list", one + "[service]\nexec = ['a']\nstate_directory = '%n'\n", one + "[service]\nexec = ['a']\n# service.state_directory\nstate_directory = ['%n', \"b\"]\n", func(s *spec.Service) {
			s.Directories = append(s.Directories, spec.Directory{Kind: "state", Name: "b"})
		}},
		{"an inline section", "service = { exec = ['a'] } # x\n" + one, "[[socket]]\nlisten = [\"tcp://:80\"]\n\n[service]\nexec = [\"a\"]\n# service.syslog\nsyslog = true\n", func(s *spec.Service) { s.Syslog = true }},
	}
}

func editedLists() []edited {
	const before = "[[socket]]\nlisten = ['tcp://:80']\n[service]\nexec = ['a']\n[sandbox]\n"
	const why = "# sandbox.read_only\n"
	list := func(name, from, to string) edited { return edited{name, before + from, before + why + to, addMount} }
	return []edited{
		list("a list of none", "read_only = [ ] # x\n", "read_only = [\"/new\" ] # x\n"),
		list("a list", "read_only = ['%h/a', 'b'] # x\n", "read_only = ['%h/a', 'b', \"/new\"] # x\n"),
		list("a comma behind", "read_only = ['a', ] # x\n", "read_only = ['a', \"/new\", ] # x\n"),
		list("lines", "read_only = [\n  'a', # of a, b\n  'b' # of b\n  # no more\n]\n", "read_only = [\n  'a', # of a, b\n  'b', # of b\n  # no more\n  \"/new\",\n]\n"),
		list("lines with a comma", "read_only = [\n\t'a',\n\t] # x\n", "read_only = [\n\t'a',\n\t\"/new\",\n\t] # x\n"),
		list("an odd comma", "read_only = [\n'a' # ]\n, ]\n", "read_only = [\n'a', \"/new\" # ]\n, ]\n"),
		{"an item less", before + "read_only = [ '%h/a', 'b', 'c' ] # x\n", before + why + "read_only = ['%h/a', 'c'] # x\n", func(s *spec.Service) {
			s.Sandbox.ReadOnly = append(s.Sandbox.ReadOnly[:1:1], s.Sandbox.ReadOnly[2])
		}},
	}
}

func editedSockets() []edited {
	const service, bind = "[service]\nexec = ['a']\n", "[service]\nexec = ['a']\n# service.handover\nhandover = \"bind\"\n"
	socket := func(listen, rest string) string { return "[[socket]]\nlisten = [" + listen + "]\n" + rest }
	why := func(address, target string) string {
		return "# socket.target tcp://:" + address + "\ntarget = \"" + target + "\"\n"
	}
	return []edited{
		{"the same address", socket("'tcp://:80'", "# x\n") + service, socket("'tcp://:80'", "# x\n") + bind, bindAt("tcp://:80")},
		{"another address", socket("'tcp://:80'", "no_delay = true # x\n") + service, socket("'tcp://:80'", "no_delay = true # x\n"+why("80", "tcp://:9")) + bind, bindAt("tcp://:9")},
		{"a wrong target", socket("'tcp://:80'", "target = 'tcp://:8' # x\n") + service + "handover = 'bind'\n",
			socket("'tcp://:80'", "# socket.target tcp://:80\ntarget = \"tcp://:9\" # x\n") + service + "handover = 'bind'\n", bindAt("tcp://:9")},
		{"the first of two", socket("'tcp://:80', 'tcp://:81'", "no_delay = true # x\n") + service,
			socket("'tcp://:80'", "no_delay = true # x\n"+why("80", "tcp://:9")+"\n[[socket]]\nlisten = [\"tcp://:81\"]\nno_delay = true\n") + bind, bindAt("tcp://:9")},
		{"the last of three", socket("'tcp://:80', 'tcp://:81', 'tcp://:82'", "") + service,
			socket("'tcp://:80', 'tcp://:81'", "\n[[socket]]\nlisten = [\"tcp://:82\"]\n"+why("82", "tcp://:9")) + bind, bindAt("tcp://:80", "tcp://:81", "tcp://:9")},
		{"a key that its socket left", socket("'unix:///s', 'tcp://:81'", "no_delay = true # x\n") + service,
			"[[socket]]\nlisten = [\"unix:///s\"]\nsocket_mode = \"0666\"\n# socket.target unix:///s\ntarget = \"unix:///t\"\n\n[[socket]]\nlisten = [\"tcp://:81\"]\nno_delay = true\n\n[service]\nexec = [\"a\"]\n# service.handover\nhandover = \"bind\"\n", bindAt("unix:///t")},
	}
}

// What a text says stays as it is written, and what is added stands where it belongs.
func TestAppendEdited(t *testing.T) {
	for _, test := range append(append(editedTexts(), editedLists()...), editedSockets()...) {
		t.Run(test.name, func(t *testing.T) {
			p := parseFile("web.toml", []byte(test.from), somewhere)
			if len(p.errs) > 0 {
				t.Fatal(p.errs)
			}
			to := p.service
			to.Sockets = append([]spec.Socket(nil), to.Sockets...)
			test.change(&to)
			got := string(Source{p.service, p}.AppendEdited(nil, to, func(key string) []string {
				if key, ok := strings.CutPrefix(key, "socket."); ok && !strings.HasPrefix(key, "target ") {
					return nil
				}
				return map[bool][]string{true: {key}}[!strings.HasSuffix(key, ".exec")]
			}))
			if got != test.to {
				t.Errorf("%s\nnot\n%s", got, test.to)
			}
		})
	}
}
