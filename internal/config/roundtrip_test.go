package config

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/pelletier/go-toml/v2"
)

// samples are values that every key accepts today, by table and key. A key
// without samples fails TestSamplesAreComplete.
var samples = map[string]map[string][]string{
	"socket": {
		"listen":              {`["tcp://127.0.0.1:80"]`, `["udp://:80"]`, `["tcp://:80", "udp6://:81", "udp://[fe80::1%eth0]:82"]`, `["unix://%h/100%%", "unixpacket://@a%%b", "fifo://./f"]`, `["vsock://:5", "unixgram:///x y"]`, `["tcp4://:80", "unix:///z"]`},
		"name":                {`"web"`, `"%n-2"`, `'a"b\c'`},
		"backlog":             {"1", "2147483647", "0x10", "1_000"},
		"socket_mode":         {`"0600"`, "0o0", `"777"`},
		"socket_user":         {`"root"`, `"%u"`, "0", `"007"`},
		"socket_group":        {`"staff"`, "2147483647"},
		"directory_mode":      {`"0700"`, "0o755"},
		"remove_on_stop":      {"true", "false"},
		"symlinks":            {`["/s"]`, `["rel", "/run/%%"]`, "[]"},
		"bind_ipv6_only":      {`"default"`, `"ipv6-only"`, `"both"`},
		"bind_to_device":      {`"lo"`},
		"free_bind":           {"true", "false"},
		"transparent":         {"true", "false"},
		"reuse_port":          {"true", "false"},
		"no_delay":            {"true", "false"},
		"keep_alive":          {"true", "false"},
		"keep_alive_time":     {`"60s"`, `"1h"`},
		"keep_alive_interval": {`"1s"`},
		"keep_alive_probes":   {"1", "127"},
		"defer_accept":        {`"5s"`},
		"tcp_congestion":      {`"reno"`},
		"mptcp":               {"true", "false"},
		"receive_buffer":      {"4096", `"64K"`, `"1M"`},
		"send_buffer":         {`"1G"`},
		"priority":            {"0", "6"},
		"mark":                {"1", "4294967295"},
		"ip_tos":              {"0", "255"},
		"ip_ttl":              {"1", "255"},
		"broadcast":           {"true", "false"},
		"timestamping":        {`"off"`, `"us"`, `"ns"`},
		"pass_credentials":    {"true", "false"},
		"pass_security":       {"true", "false"},
		"pass_packet_info":    {"true", "false"},
		"pass_rights":         {"true", "false"},
		"pipe_size":           {"4096", `"64K"`},
		"non_blocking":        {"true", "false"},
		"target":              {`"tcp://:80"`}, // refused: needs a handover
	},
	"service": {
		"exec":                       {`["/bin/true"]`, `["sh", "-c", "date +%%s\n", "", "é\"\\\u001b"]`, `["./x"]`, `['../%n']`, `["x", "{fds:;};", "{{fds}{fdcount}{}"]`},
		"handover":                   {`"fds"`, `"bind"`, `"stdio"`, `"proxy"`},
		"accept":                     {"true", "false"},
		"max_connections":            {"5"},
		"max_connections_per_source": {"1"},
		"silent_connection_timeout":  {`"1m"`, `"never"`, `"24h"`},
		"connection_timeout":         {`"1m"`, `"never"`},
		"proxy_protocol":             {`"v1"`, `"v2"`, `"none"`},
		"environment":                {`["B=2", "A=%h"]`, `{ X = "a=b", Y = "" }`, `{ N = "{fds}", M = "{{fd:%n}" }`, "[]", "{}"},
		"working_directory":          {`"/"`, `"/srv/%n/."`},
		"user":                       {`"www-data"`, "33"},
		"group":                      {`"%g"`, "33"},
		"umask":                      {`"0077"`, "0o22"},
		"limits":                     {"{ nofile = 1024 }", `{ nproc = "5:infinity", core = 0, as = "1G:2G", inotify_instances = 64 }`, `{ data = "18446744073709551614" }`, "{}"},
		"state_directory":            {`"a"`, `["a", "b/c"]`},
		"cache_directory":            {`"%n"`},
		"logs_directory":             {`[]`, `"x"`},
		"runtime_directory":          {`"x y"`},
		"start_timeout":              {`"infinity"`, `"never"`, `"1h30m"`},
		"stop_timeout":               {`"1ms"`},
		"stop_signal":                {`"TERM"`, `"SIGINT"`, "9", `"RTMIN+3"`, "40", `"sigwinch"`},
		"notify":                     {"true", "false"},
		"syslog":                     {"true", "false"},
		"memory_max":                 {`"64M"`, "1048576", `"infinity"`},
		"tasks_max":                  {"64", `"infinity"`},
		"cpu_weight":                 {"1", "10000"},
		"file_descriptor_store_max":  {"0", "512"},
		"watchdog":                   {`"never"`, `"infinity"`, `"10s"`, `"100ms"`},
		"restart_delay":              {`"0s"`, `"10ms"`},
		"restart_max_delay":          {`"1m"`},
		"hold":                       {`"infinity"`, `"1s"`},
		"idle_timeout":               {`"never"`, `"infinity"`, `"5m"`, `"50ms"`},
		"warm":                       {"true", "false"},
		"stdout":                     {`"log"`, `"null"`, `"./out.log"`},
		"stderr":                     {`"inherit"`, `"/var/log/%n"`},
	},
	"sandbox": {
		"network":           {`"none"`, `"host"`, `"netns:blue"`, `"/run/netns/x"`, `"./ns"`},
		"seal":              {`"off"`, `"required"`, `"best-effort"`},
		"connect":           {`"any"`, `"unix"`, `"none"`},
		"root":              {`"/srv/root"`, `"../bin/rootfs"`},
		"read_only":         {`["/opt"]`, `["a:/b", "/c%%:/d"]`},
		"writable":          {`["/srv:/data"]`},
		"tmpfs":             {`["/scratch"]`, `["/dev/shm/x"]`},
		"users":             {`["mysql", 33]`, "[]"},
		"groups":            {`["www-data"]`},
		"capabilities":      {`["net_bind_service", "CAP_CHOWN"]`, "[]"},
		"syscalls":          {`"any"`, `"default"`},
		"no_new_privileges": {"true", "false"},
		"init":              {"true", "false"},
	},
	"container": {
		"engine":  {`"podman"`},
		"image":   {`"localhost/%n"`},
		"options": {`["--memory=1g"]`, "[]"},
		"command": {`["/echo", "%%", "{fdcount}"]`},

		"internet_sockets": {"true", "false"},
	},
}

func TestSamplesAreComplete(t *testing.T) {
	for _, s := range sections() {
		for _, key := range s.keys {
			if len(samples[s.name][key]) == 0 {
				t.Errorf("%s.%s has no samples", s.name, key)
			}
		}
		if len(s.keys) != len(samples[s.name]) {
			t.Errorf("%s: %d keys, but samples of %d", s.name, len(s.keys), len(samples[s.name]))
		}
	}
}

// Every sample is accepted somewhere: in a file that has what it depends on.
func TestSamplesAreAccepted(t *testing.T) {
	for table, keys := range samples {
		for key, values := range keys {
			for _, v := range values {
				refused := key == "target" || key == "max_connections" || key == "max_connections_per_source" || key == "connection_timeout" || key == "silent_connection_timeout" || key == "proxy_protocol"
				if got := accepted(table, key, v); got == refused {
					t.Errorf("%s.%s = %s: accepted %v", table, key, v, got)
				}
			}
		}
	}
}

func accepted(table, key, v string) bool {
	for _, address := range samples["socket"]["listen"] {
		file := map[string]string{
			"socket":    "listen = " + address + "\n",
			"service":   "exec = [\"/bin/true\"]\n",
			"sandbox":   "",
			"container": "",
		}
		switch {
		case key == "listen" || key == "exec":
			file[table] = ""
		case strings.HasPrefix(key, "keep_alive_"):
			file["socket"] += "keep_alive = true\n"
		case key == "image":
			file["service"] = ""
		case table == "container":
			file["service"], file["container"] = "", "image = \"x\"\n"
		}
		file[table] += key + " = " + v + "\n"
		text := "[[socket]]\n" + file["socket"] + "[service]\n" + file["service"] + "[sandbox]\n" + file["sandbox"]
		if table == "container" {
			text += "[container]\n" + file["container"]
		}
		if _, err := parseText("web.toml", []byte(text), somewhere); err == nil {
			return true
		}
	}
	return false
}

// What is printed reads back as the same, for services made of samples at
// random.
func TestPrintReadsBack(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	good := 0
	for range 4000 {
		if readsBack(t, randomFile(random)) {
			good++
		}
	}
	if good < 400 {
		t.Errorf("only %d of the files were sound", good)
	}
}

func randomFile(random *rand.Rand) string {
	pick := func(table, key string) string {
		values := samples[table][key]
		return key + " = " + values[random.IntN(len(values))] + "\n"
	}
	var b strings.Builder
	b.WriteString("[[socket]]\n" + pick("socket", "listen"))
	others := func(table string, n int, without ...string) {
		keys := slices.Sorted(func(yield func(string) bool) {
			for key := range samples[table] {
				if !slices.Contains(without, key) && !yield(key) {
					return
				}
			}
		})
		for _, i := range random.Perm(len(keys))[:n] {
			b.WriteString(pick(table, keys[i]))
		}
	}
	others("socket", random.IntN(4), "listen", "target")
	b.WriteString("[service]\n")
	container := random.IntN(4) == 0
	if !container {
		b.WriteString(pick("service", "exec"))
	}
	others("service", random.IntN(6), "exec", "max_connections", "max_connections_per_source")
	b.WriteString("[sandbox]\n")
	others("sandbox", random.IntN(4))
	if container {
		b.WriteString("[container]\n" + pick("container", "image"))
		others("container", random.IntN(3), "image")
	}
	return b.String()
}

// readsBack reports whether text is sound; if so, what is printed of it must
// read back as the same, wherever it is read.
func readsBack(t *testing.T, text string) bool {
	first, err := parseText("web.toml", []byte(text), somewhere)
	if err != nil {
		return false
	}
	printed := AppendTOML(nil, first)
	second, err := parseText("/elsewhere/web.toml", printed, Env{Dir: "/"})
	if err != nil {
		t.Fatalf("%s\nprinted as\n%s\n%v", text, printed, err)
	}
	second.File = first.File
	if !reflect.DeepEqual(first, second) {
		t.Fatalf("%s\nprinted as\n%s\nread back as\n%+v\nwant\n%+v", text, printed, second, first)
	}
	if first.Container == nil {
		changed := AppendChanged(nil, first, func(key string) []string { return []string{"of " + key + "\nexec = 1"} })
		third, err := parseText("/elsewhere/web.toml", changed, Env{Dir: "/"})
		if err != nil {
			t.Fatalf("%s\nprinted as\n%s\n%v", text, changed, err)
		}
		third.File = first.File
		if !reflect.DeepEqual(first, third) {
			t.Fatalf("%s\nprinted as\n%s\nread back as\n%+v\nwant\n%+v", text, changed, third, first)
		}
	}
	if first.Container == nil {
		readsEdited(t, text)
	}
	if again := AppendTOML(nil, second); string(again) != string(printed) {
		t.Fatalf("printed as\n%s\nthen as\n%s", printed, again)
	}
	return true
}

// readsEdited holds a text that is edited against the service that it must give; without a change it stays as it is.
func readsEdited(t *testing.T, text string) {
	p := parseFile("web.toml", []byte(text), somewhere)
	s, to := Source{p.service, p}, p.service
	why := func(key string) []string { return []string{"of " + key} }
	if same := s.AppendEdited(nil, to, why); string(same) != text && !strings.HasPrefix(text, "\ufeff") {
		t.Fatalf("%s\nis changed by nothing to\n%s", text, same)
	}
	to.Syslog, to.Sandbox.Tmpfs = true, append(slices.Clone(to.Sandbox.Tmpfs), "/tmp/new")
	if changed := s.AppendEdited(nil, to, why); !s.isText(changed, to) {
		t.Fatalf("%s\nis edited to\n%s\nand gives another service", text, changed)
	}
}

func seed(f *testing.F) {
	files, _ := filepath.Glob("../../configs/*.toml")
	more, _ := filepath.Glob("testdata/wrong/*.toml")
	for _, file := range append(files, more...) {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	random := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		f.Add(randomFile(random))
	}
	for _, text := range []string{
		"[" + strings.Repeat("a.", mostParts) + "a]\nb = 1", "a = { " + strings.Repeat("a.", mostParts) + "a = 1 }",
		"[service]\n\"\\u009b\\n\" = 1\nstdout = 'append:~/%%'", strings.Repeat("a = 1\n", 2*mostErrors),
		minimal("", "stdout = '.././lnk/../x'", "read_only = ['../x:/y', '/lnk/..']"),
	} {
		f.Add(text)
	}
}

// Whatever is read, nothing panics, each error has a place in the text and shows nothing that a terminal obeys, and what
// is accepted is TOML for others too.
func FuzzParse(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, text string) {
		_, err := parseText("web.toml", []byte(text), somewhere)
		if err == nil {
			var other any
			if err := toml.Unmarshal([]byte(text), &other); err != nil {
				t.Errorf("accepted, but %v", err)
			}
			return
		}
		lines := strings.Split(text, "\n")
		for _, e := range err.(Errors) {
			if e.Text == "" || e.Line < 0 || e.Line > len(lines) || e.Line > 0 && (e.Column < 1 || e.Column > len(lines[e.Line-1])+1) {
				t.Errorf("%+v", e)
			}
			if i := strings.IndexFunc(e.Error(), func(c rune) bool { return c != '\n' && c != '\t' && !unicode.IsPrint(c) }); i >= 0 {
				t.Errorf("a terminal obeys %q", e.Error())
			}
		}
		if n := len(err.(Errors)); n > mostErrors+1 {
			t.Errorf("%d errors", n)
		}
	})
}

func FuzzRoundTrip(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, text string) { readsBack(t, text) })
}

func FuzzSpecifiers(f *testing.F) {
	f.Add("%h/%%x%")
	f.Fuzz(func(t *testing.T, text string) {
		r := &reading{env: somewhere, name: "web"}
		_, _ = r.expandText(text)
		back, err := r.expandText(escapeText(text))
		if !strings.Contains(text, "\x00") && (err != nil || back != text) {
			t.Errorf("%q came back as %q, %v", text, back, err)
		}
	})
}

func FuzzDurationAndSize(f *testing.F) {
	for _, s := range []string{"1h", "-1ns", "infinity", "0s", "8760h0.5ns", "64K", "+1", "18446744073709551615G"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		kind := duration(0, "")
		r := &reading{}
		v := value{kind: stringKind, text: text}
		if d, ok := kind.read(r, v); ok {
			v.text = strings.Trim(kind.print(d), `"`)
			if back, ok := kind.read(r, v); !ok || back != d || d < 0 || d > longest {
				t.Errorf("%q is %v, and back %v", text, d, back)
			}
		}
		if n, err := ParseSize(text); err == nil && n > 0 && strings.TrimLeft(text, "0") == "" {
			t.Errorf("%q is %d", text, n)
		}
	})
}
