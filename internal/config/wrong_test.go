package config

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the expected errors anew")

// The errors of each file below testdata/wrong, to the letter.
func TestWrong(t *testing.T) {
	files, err := filepath.Glob("testdata/wrong/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = parseText(filepath.Base(file), text, somewhere)
			if err == nil {
				t.Fatal("no error")
			}
			golden := strings.TrimSuffix(file, ".toml") + ".errors"
			if *update {
				if err := os.WriteFile(golden, []byte(err.Error()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, readErr := os.ReadFile(golden)
			if readErr != nil {
				t.Fatal(readErr)
			}
			if err.Error() != string(want) {
				t.Errorf("got\n%s\nwant\n%s", err, want)
			}
		})
	}
}

func long(n int) string { return strings.Repeat("n", n) }

// One mistake, and what must be said about it.
func TestMistakes(t *testing.T) {
	for _, tt := range []struct{ socket, service, sandbox, says string }{
		{"", "", "", ""},
		{"backlog = 0", "", "", "0 is out of range"},
		{"", "stdout = \"append:/x\"", "", "write the path alone, \"/x\""},
		{"", "stderr = \"truncate:/x\"", "", "write the path alone, \"/x\""},
		{"", "stdout = \"file:/x\"", "", "write the path alone, \"/x\""},
		{"", "stdout = \"append:rel.log\"", "", "write the path alone, \"./rel.log\""},
		{"", "stdout = \"append:~/x%%.log\"", "", "write the path alone, \"%h/x%%.log\""},
		{"", "stdout = \"append:\"", "", "names none\n    stdout = \"append:\"\n             ^\n    want \"log\""},
		{"symlinks = [\"/a\", \"/a\"]\n[[socket]]\nlisten = [\"unix:///a\"]\n[[socket]]\nlisten = [\"unix:///a\"]", "", "", "give one of the two another path"},
		{"[[socket]]\nlisten = [\"tcp://:81\", \"tcp4://127.0.0.1:81\", \"tcp://:81\"]", "", "", "give one of the two another address"},
		{"backlog = -1", "", "", "out of range"},
		{"[[socket]]\nlisten = [\"unix:///b/sc\", \"unix:///b/.sc.activator\"]", "", "", "/b/.sc.activator is the second name of a socket, at "},
		{"[[socket]]\nlisten = [\"unix:///b/.sc.activator\", \"unix:///b/sc\"]", "", "", "/b/.sc.activator, its second name, is taken already, at "},
		{"[[socket]]\nlisten = [\"unix:///b/s\"]\nsymlinks = [\"/b/.s.activator\"]", "", "", "/b/.s.activator is the second name of a socket, at "},
		{"[[socket]]\nlisten = [\"unix:///b/a\", \"unix:///b/a/b\"]", "", "", "/b/a/b is below /b/a, which is no folder, at "},
		{"[[socket]]\nlisten = [\"unix:///b/a/b\", \"fifo:///b/a\"]", "", "", "/b/a is a folder above the path at "},
		{"[[socket]]\nlisten = [\"unix:///b/a\"]\nsymlinks = [\"/b/.a.activator/c\"]", "", "", "is below /b/.a.activator, which is no folder, at "},
		{"[[socket]]\nlisten = [\"unix:///b/a\"]\nsymlinks = [\"/b/a/b\"]", "", "", "/b/a/b is below /b/a, which is no folder, at "},
		{"[[socket]]\nlisten = [\"unix:///b/a\"]\nsymlinks = [\"/b/" + long(256) + "\"]", "", "", "a name in the path has 256 bytes"},
		{"[[socket]]\nlisten = [\"unix:///b/a\"]\nsymlinks = [\"/b" + strings.Repeat("/"+long(255), 16) + "\"]", "", "", "the path has 4098 bytes"},
		{"", "state_directory = \"" + long(300) + "\"", "", "a name in the path has 300 bytes"},
		{"", "working_directory = \"/" + long(300) + "\"", "", "a name in the path has 300 bytes"},
		{"", "stdout = \"/" + long(300) + "\"", "", "a name in the path has 300 bytes"},
		{"", "", "read_only = [\"/etc/ssl:/tmp/" + long(300) + "\"]", "a name in the path has 300 bytes"},
		{"", "", "writable = [\"/" + long(300) + "\"]", "a name in the path has 300 bytes"},
		{"", "", "tmpfs = [\"/tmp/" + long(300) + "\"]", "a name in the path has 300 bytes"},
		{"", "", "root = \"/" + long(300) + "\"", "a name in the path has 300 bytes"},
		{"", "", "network = \"/" + long(300) + "\"", "a name in the path has 300 bytes"},
		{"backlog = 1.5", "", "", "is a float"},
		{"backlog = 99999999999999999999", "", "", "64 bits"},
		{"socket_mode = \"0600\"", "", "", "it is for paths"},
		{"pipe_size = 4096", "", "", "it is for fifo://"},
		{"broadcast = true", "", "", "it is for udp://"},
		{"pass_rights = false", "", "", "it is for unix sockets"},
		{"bind_ipv6_only = \"both\"", "", "", "it is for addresses of IPv6"},
		{"bind_to_device = \"a name too long for it\"", "", "", "cannot be an interface"},
		{"keep_alive_time = \"10s\"", "", "", "keep_alive is not true"},
		{"keep_alive = true\nkeep_alive_time = \"1500ms\"", "", "", "whole number of seconds"},
		{"keep_alive = true\nkeep_alive_probes = 200", "", "", "1 to 127"},
		{"receive_buffer = \"1k\"", "", "", "no size"},
		{"receive_buffer = \"2G\"", "", "", "out of range"},
		{"receive_buffer = -5", "", "", "out of range"},
		{"receive_buffer = true", "", "", "is a boolean"},
		{"ip_tos = 256", "", "", "0 to 255"},
		{"mark = 0", "", "", "1 to 4294967295"},
		{"timestamping = \"ms\"", "", "", "unknown word"},
		{"name = \"a:b\"", "", "", "LISTEN_FDNAMES"},
		{"name = \"\"", "", "", "is empty"},
		{"name = \"\\u0001\"", "", "", "LISTEN_FDNAMES"},
		{"name = \"" + strings.Repeat("x", 256) + "\"", "", "", "more than 255"},
		{"target = \"tcp://:81\"", "", "", "handover"},
		{"[[socket]]\nlisten = [\"tcp6://:81\"]\nbind_ipv6_only = \"both\"", "", "", "contradicts"},
		{"[[socket]]\nlisten = [\"unix:///a\", \"unix:///b\"]\nsymlinks = [\"/c\"]", "", "", "cannot be told"},
		{"[[socket]]\nlisten = [\"unix:///a\"]\nsymlinks = [\"/a\"]", "", "", "/a is taken already"},
		{"[[socket]]\nlisten = []", "", "", "there is no address"},
		{"[[socket]]\nname = \"x\"", "", "", "there is no address"},
		{"[[socket]]\nlisten = \"tcp://:81\"", "", "", "write [\"tcp://:81\"]"},
		{"[[socket]]\nlisten = [\"unix:///%h\", \"unix:///x%\"]", "", "", "lone percent"},
		{"", "accept = true", "", ""},
		{"", "accept = true\nnotify = true", "", "each instance has its client already"},
		{"", "accept = true\nhandover = \"stdio\"\nstdout = \"log\"", "", "it is the socket"},
		{"", "accept = true\n[container]\nimage = \"x\"", "", "started once"},
		{"", "handover = \"stdio\"\n[container]\nimage = \"x\"", "", "as descriptors"},
		{"", "accept = true\nhandover = \"bind\"", "", "handover is \"bind\""},
		{"[[socket]]\nlisten = [\"udp://:81\"]", "accept = true", "", "has no connections"},
		{"[[socket]]\nlisten = [\"tcp://:81\"]", "handover = \"stdio\"", "", "a second socket"},
		{"[[socket]]\nlisten = [\"tcp://:81\"]", "handover = \"stdio\"\naccept = true", "", ""},
		{"", "handover = \"stdio\"\nenvironment = [\"A={fd:x}\"]", "", "no descriptor has a number here"},
		{"", "accept = true\nenvironment = [\"A={fd:connection}\"]", "", ""},
		{"", "accept = true\nenvironment = [\"A={fd:web}\"]", "", "no socket is called"},
		{"", "max_connections = 64", "", "accept is not true"},
		{"", "accept = true\nidle_timeout = \"5m\"", "", "accept is true, so an instance is there"},
		{"", "", "seal = \"off\"\nnetwork = \"host\"", "has no meaning here: network is"},
		{"", "", "seal = \"on\"", "unknown word"},
		{"", "start_timeout = \"0s\"", "", "write \"infinity\""},
		{"", "restart_delay = \"infinity\"", "", "has no meaning here"},
		{"", "restart_delay = \"-1s\"", "", "less than 0s"},
		{"", "restart_delay = \"1m\"", "", "more than restart_max_delay"},
		{"", "restart_max_delay = \"1ms\"", "", "less than restart_delay"},
		{"", "hold = \"9000h\"", "", "more than a year"},
		{"", "hold = \"10\"", "", "has no unit"},
		{"", "umask = \"888\"", "", "no mode"},
		{"", "umask = 0o1000", "", "permission bits"},
		{"", "umask = true", "", "is a boolean"},
		{"", "memory_max = \"64\"", "", "out of range"},
		{"", "memory_max = \"50%\"", "", "no size"},
		{"", "memory_max = -1", "", "out of range"},
		{"", "tasks_max = 0", "", "out of range"},
		{"", "tasks_max = \"many\"", "", "is a string"},
		{"", "cpu_weight = 10001", "", "out of range"},
		{"", "memory_max = \"64M\"\n[container]\nimage = \"x\"", "", "--memory"},
		{"", "stop_signal = \"STOP\"", "", "no signal that ends"},
		{"", "stop_signal = 0", "", "no signal"},
		{"", "stop_signal = \"RTMIN+31\"", "", "no signal"},
		{"", "stop_signal = []", "", "is a list"},
		{"", "user = \"a b\"", "", "no name of a user"},
		{"", "user = -1", "", "out of range"},
		{"", "working_directory = \"x\"", "", "not absolute"},
		{"", "stdout = \"file\"", "", "unknown word"},
		{"", "limits = { nofile = -1 }", "", "less than 0"},
		{"", "limits = { nofile = 1.5 }", "", "is a float"},
		{"", "limits = { nofile = \"a\" }", "", "is no limit"},
		{"", "limits = { RLIMIT_NOFILE = 3 }", "", "did you mean \"nofile\"?"},
		{"", "limits = 3", "", "is an integer"},
		{"", "environment = 3", "", "is an integer"},
		{"", "environment = { A = 3 }", "", "is an integer"},
		{"", "environment = { NOTIFY_SOCKET = \"x\" }", "", "for the activator"},
		{"", "environment = [\"A=%x\"]", "", "unknown specifier"},
		{"", "environment = [\"A=\\u0000\"]", "", "NUL"},
		{"", "state_directory = \"../x\"", "", "no name below"},
		{"", "state_directory = [\"x\", \"./x\"]", "", "repeated"},
		{"", "state_directory = 3", "", "is an integer"},
		{"", "exec_start = 3", "", "repeated"},
		{"", "", "tmpfs = [\"/a\", \"/a\"]", "a second mount"},
		{"", "", "tmpfs = [\"/\"]", "the root"},
		{"", "", "tmpfs = [\"x\"]", "not absolute"},
		{"", "", "read_only = [\"/a\"]\nwritable = [\"/b:/a\"]", "a second mount on /a"},
		{"", "", "network = \"netns:a/b\"", "no name of a network namespace"},
		{"", "", "root = \"\"", "is empty"},
		{"", "", "root = \"~\"", "write \"%h\""},
		{"", "", "user = \"x\"", "\"user\" stands in [service]"},
		{"", "", "[container]\nimage = \"x\"", "[container] has image and command"},
		{"", "", "[container]", "container.image: there is none"},
	} {
		text := minimal(tt.socket, tt.service, tt.sandbox)
		if tt.service == "exec_start = 3" {
			tt.says = "here it is written \"exec\""
		}
		_, err := parseText("x.toml", []byte(text), somewhere)
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%q %q %q: want %q, got:\n%v", tt.socket, tt.service, tt.sandbox, tt.says, err)
		}
	}
}

// A specifier in the middle of a text is pointed at.
func TestPlaceOfSpecifier(t *testing.T) {
	for text, column := range map[string]int{
		`["A=1", "B=x%q"]`: 27, `{ B = "x%q" }`: 23, `["B=\u0041%q"]`: 16, `["B=%q%q"]`: 19,
	} {
		_, err := parseText("x.toml", []byte("socket = 1\n[service]\nenvironment = "+text), somewhere)
		var found bool
		for _, e := range err.(Errors) {
			found = found || e.Line == 3 && e.Column == column && strings.Contains(e.Text, "unknown specifier")
		}
		if !found {
			t.Errorf("%s: want column %d:\n%v", text, column, err)
		}
	}
}

func TestNames(t *testing.T) {
	for name, good := range map[string]bool{
		"echo": true, "a-b_c.d@1": true, "0": true, strings.Repeat("x", 64): true,
		"": false, "a:b": false, "a b": false, "-a": false, ".a": false, "é": false, "a%b": false, strings.Repeat("x", 65): false,
	} {
		_, err := parseText(name+".toml", []byte(minimal("", "", "")), somewhere)
		if (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestExcerpt(t *testing.T) {
	long := strings.Repeat("x", 150)
	for _, tt := range []struct {
		source       string
		column       int
		line1, line2 string
	}{
		{"abc", 2, "abc", " ^"},
		{"\tabc\td", 6, "\tabc\td", "\t   \t^"},
		{"", 1, "", "^"},
		{"abc", 9, "abc", "   ^"},
		{"äö = \x1b[1m", 6, "äö = \ufffd[1m", "     ^"},
		{long, 1, long[:100] + "...", "^"},
		{long, 150, "..." + long[:100], strings.Repeat(" ", 3+99) + "^"},
		{long, 75, "..." + long[:100] + "...", strings.Repeat(" ", 3+50) + "^"},
	} {
		e := Error{Line: 1, Column: tt.column, Source: tt.source}
		if a, b := e.excerptLine(); a != tt.line1 || b != tt.line2 {
			t.Errorf("%q at %d: got\n%q\n%q want\n%q\n%q", tt.source, tt.column, a, b, tt.line1, tt.line2)
		}
	}
}

func TestSuggest(t *testing.T) {
	words := keyNames(serviceKeys())
	for written, want := range map[string]string{
		"exce": "exec", "exec": "exec", "enviroment": "environment", "workingdirectory": "working_directory",
		"stop_singal": "stop_signal", "zzz": "", "": "",
	} {
		got := suggestWord(written, words)
		if want != "" && !strings.Contains(got, `"`+want+`"`) || want == "" && got != "" {
			t.Errorf("%q: %s, want %q", written, got, want)
		}
	}
}

// What is proposed for systemd's ways to name a file is taken.
func TestProposedFilesAreTaken(t *testing.T) {
	for _, path := range []string{"rel.log", "~", "~/x", "~/a%%b", "/x", "a/b", "../x", "%%", `a\"b`} {
		_, err := parseText("x.toml", []byte(minimal("", `stdout = "append:`+path+`"`, "")), somewhere)
		var found Errors
		if !errors.As(err, &found) {
			t.Errorf("%s is no error", path)
			continue
		}
		proposed, _, _ := strings.Cut(strings.TrimPrefix(found[0].Cure, "write the path alone, "), ": ")
		if _, err := parseText("x.toml", []byte(minimal("", "stdout = "+proposed, "")), somewhere); err != nil {
			t.Errorf("%s: %s is proposed:\n%v", path, proposed, err)
		}
	}
}

// A ".." behind a name is refused wherever a path is read, in the words of listen; one at the beginning leads up from the file's
// folder.
func TestParentFolders(t *testing.T) {
	const says = "\"..\" in the path leads elsewhere when a folder is a link\n"
	for _, tt := range []struct {
		socket, service, sandbox string
		refused                  string // the path that is
		good                     string // one that is not
	}{
		{"[[socket]]\nlisten = [\"unix://PATH\"]", "", "", "./lnk/../x", "../x"},
		{"[[socket]]\nlisten = [\"unix:///y\"]\nsymlinks = [\"PATH\"]", "", "", "lnk/../x", "../x"},
		{"", "stdout = \"PATH\"", "", "/lnk/../x", "../x"},
		{"", "stderr = \"PATH\"", "", ".././lnk/../x", "./.././../x"},
		{"", "exec = [\"PATH\"]", "", "bin/../echo", "../bin/echo"},
		{"", "exec = [\"PATH\"]", "", "/bin/../echo", "/bin/..echo"},
		{"", "exec = [\"PATH\"]", "root = \"/r\"", "/bin/../echo", "/bin/./echo"},
		{"", "working_directory = \"PATH\"", "", "/lnk/..", "/lnk/..."},
		{"", "state_directory = \"PATH\"", "", "a/../b", "a/b"},
		{"", "", "root = \"PATH\"", "/lnk/..", ".."},
		{"", "", "network = \"PATH\"", "/run/../x", "../x"},
		{"", "", "read_only = [\"PATH\"]", "/lnk/../x", "../x"},
		{"", "", "read_only = [\"PATH\"]", "/lnk/../x:/q", "../x:/q"},
		{"", "", "read_only = [\"PATH\"]", "../x:/lib/../q", "../x:/q"},
		{"", "", "writable = [\"PATH\"]", "../lnk/../x", "..//../x"},
		{"", "", "tmpfs = [\"PATH\"]", "/lib/../q", "/q"},
	} {
		read := func(path string) error {
			in := func(text string) string { return strings.ReplaceAll(text, "PATH", path) }
			text := minimal(in(tt.socket), in(tt.service), in(tt.sandbox))
			if strings.HasPrefix(tt.service, "exec") {
				text = strings.Replace(text, "exec = [\"/bin/true\"]\n", "", 1)
			}
			_, err := parseText("x.toml", []byte(text), somewhere)
			return err
		}
		err := read(tt.refused)
		if want := says; err == nil || strings.HasPrefix(tt.service, "state") != !strings.Contains(err.Error(), want) {
			t.Errorf("%s: want %s, got:\n%v", tt.refused, want, err)
		}
		if err := read(tt.good); err != nil {
			t.Errorf("%s: %v", tt.good, err)
		}
	}
}

// Names that a terminal would obey, or that are long, are shown as TOML writes them, in every line.
func TestOddNamesAreEscaped(t *testing.T) {
	long := strings.Repeat("é", 1000)
	text := minimal("", `"\u001b[31mred" = 1
"new\nline" = 3
limits = { "\u009b" = 1 }
"`+long+`" = 1`, "") + "[\"a.b\".c]\nx = 1\nx = 2\n[\"\\u202e\"]\n"
	_, err := parseText("x.toml", []byte(text), somewhere)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`x.toml:6:1: service."\u001B[31mred": unknown key` + "\n", `x.toml:7:1: service."new\nline": unknown key` + "\n",
		`: service.limits."\u009B": unknown limit` + "\n", `: service."` + strings.Repeat("é", 64) + `"...: unknown key` + "\n",
		`: "a.b".c.x: repeated: `, `: "a.b": unknown table`, `: "\u202E": unknown table`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("without %q:\n%v", want, err)
		}
	}
	odd := Errors{{File: "\x1b.toml", Text: "a\nb", Cure: "c\rd"}}
	if got, want := odd.Error(), `\u001B.toml: a\nb`+"\n    "+`c\u000Dd`+"\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// Of many errors the first are shown, and how many more there are.
func TestManyErrors(t *testing.T) {
	for n, last := range map[int]string{
		mostErrors:     "",
		mostErrors + 1: "x.toml: 1 more error\n    mend these first",
		5000:           "x.toml: 4950 more errors\n    mend these first",
	} {
		text := minimal("", "lisen = 1", "")
		for i := 1; i < n; i++ {
			text += fmt.Sprintf("exce%d = 1\n", i)
		}
		_, err := parseText("x.toml", []byte(text), somewhere)
		var all Errors
		if !errors.As(err, &all) || len(all) != min(n, mostErrors+1) {
			t.Fatalf("%d: %d errors", n, len(all))
		}
		if text := all[len(all)-1].Error(); all[0].Key != "service.lisen" || n > mostErrors && text != last {
			t.Errorf("%d: from %s to %s", n, all[0].Key, text)
		}
	}
	// What two sockets both have is counted too.
	addresses := strings.Repeat(`"unix:///x", `, 61) + strings.Repeat(`"tcp://:1", `, 11)
	_, err := parseText("x.toml", []byte(minimal("[[socket]]\nlisten = ["+addresses+"]", "", "")), somewhere)
	if err == nil || !strings.HasSuffix(err.Error(), "x.toml: 20 more errors\n    mend these first\n") {
		t.Errorf("70 addresses that are taken:\n%v", err)
	}
}

// A key has a limited number of parts, and what is shown of it too.
func TestManyParts(t *testing.T) {
	parts := func(n int) string { return strings.TrimSuffix(strings.Repeat("a.", n), ".") }
	for _, tt := range []struct{ text, says string }{
		{"[" + parts(mostParts) + "]", "x.toml:1:2: a: unknown table\n"},
		{"[" + parts(mostParts+1) + "]\nb = 1\n", "x.toml:1:2: a key of more than 16 parts\n"},
		{"[[" + parts(mostParts+1) + "]]", "x.toml:1:3: a key of more than 16 parts\n"},
		{parts(mostParts+1) + " = 1", "x.toml:1:1: a key of more than 16 parts\n"},
		{"a = { b = 1, " + parts(mostParts+1) + " = 1 }", "x.toml:1:14: a key of more than 16 parts\n"},
		{"a = { " + parts(mostParts) + " = { b = 1, b = 2 } }", ": ..." + parts(mostParts-1) + ".b: repeated: it is there already at 1:43\n"},
	} {
		_, err := parseText("x.toml", []byte(tt.text), somewhere)
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: want %s, got:\n%v", tt.text, tt.says, err)
		}
	}
}

// A table of many keys finds a repeated one, too.
func TestRepeatedAmongMany(t *testing.T) {
	for n := range 2 * indexed {
		var names []string
		for i := range n + 1 {
			names = append(names, fmt.Sprintf("A%d = ''", i))
		}
		_, err := parseText("x.toml", []byte(minimal("", "environment = { "+strings.Join(names, ", ")+", A0 = '' }", "")), somewhere)
		if err == nil || !strings.Contains(err.Error(), "service.environment.A0: repeated") {
			t.Errorf("%d keys: %v", n+1, err)
		}
	}
}
