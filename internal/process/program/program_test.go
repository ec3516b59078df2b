package program

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"
)

func FuzzInterpreter(f *testing.F) {
	f.Add([]byte("#!/bin/sh -e\ntext"))
	f.Add([]byte("#! /bin/sh"))
	if program, err := os.ReadFile("/bin/true"); err == nil {
		f.Add(program[:min(len(program), 4096)])
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		if name := interpreterOf(bytes.NewReader(file)); len(name) > 4096 || strings.Contains(name, "\n") && bytes.HasPrefix(file, []byte("#!")) {
			t.Errorf("%q", name)
		}
	})
}

func TestInterpreter(t *testing.T) {
	for text, want := range map[string]string{"#!/bin/sh -e\nx": "/bin/sh", "#! /bin/sh": "/bin/sh", "#!/bin/sh\n": "/bin/sh", "#!\t/bin/sh\t-x": "/bin/sh", "": "", "#!": "", "text": "", "\x7fELF": ""} {
		if got := interpreterOf(strings.NewReader(text)); got != want {
			t.Errorf("%q: %q, not %q", text, got, want)
		}
	}
}

// What stands after #! is found as env(1) finds it, or not looked for.
func TestSearchOf(t *testing.T) {
	const own, none = "/own", "/bin:/usr/bin"
	for _, test := range []struct{ line, want, path, cure string }{
		{"#!/usr/bin/env python3\n", "python3", own, ""},
		{"#! /usr/bin/env\tpython3 \n", "python3", own, ""},
		{"#!/usr/bin/env /bin/python3\n", "/bin/python3", own, ""},
		{"#!/usr/bin/env python3\r\n", "python3\r", own, ""},
		{"#!/usr/bin/env python3 -u\n", "python3 -u", own, "write #!/usr/bin/env -S python3 -u"},
		{"#!/usr/bin/env -i python3\n", "-i python3", own, "write #!/usr/bin/env -S -i python3"},
		{"#!/usr/bin/env -S python3 -u\n", "python3", own, ""},
		{"#!/usr/bin/env -Spython3 -u\n", "python3", own, ""},
		{"#!/usr/bin/env -S A=b python3\n", "python3", own, ""},
		{"#!/usr/bin/env -S PATH=/x python3\n", "python3", "/x", ""},
		{"#!/usr/bin/env -S -i A=b python3 -u\n", "python3", none, ""},
		{"#!/usr/bin/env -S -i PATH=/x python3\n", "python3", "/x", ""},
		{"#!/usr/bin/env -S -u A python3\n", "", "", ""},
		{"#!/usr/bin/env -S ${A} python3\n", "", "", ""},
		{"#!/usr/bin/env -u A\n", "", "", ""},
		{"#!/usr/bin/env -i\n", "", "", ""},
		{"#!/usr/bin/env A=b\n", "", "", ""},
		{"#!/usr/bin/env\n", "", "", ""},
		{"#!/usr/bin/env -S\n", "", "", ""},
		{"#!/usr/bin/env cut", "", "", ""},
		{"#!/bin/sh\n", "", "", ""},
		{"#! /bin/sh -e\n", "", "", ""},
	} {
		interpreter := interpreterOf(strings.NewReader(test.line))
		got, cure := searchOf(interpreter, []byte(test.line), []string{"PATH=" + own})
		if got.name != test.want || pathOf(got.env) != test.path || cure != test.cure {
			t.Errorf("%q: %q in %q, cure %q; want %q", test.line, got.name, got.env, cure, test)
		}
	}
}

// Entries of binfmt_misc are read as the kernel writes them, and taken as it takes them.
func TestFormats(t *testing.T) {
	dir := t.TempDir()
	if _, known := readFormats(dir); known {
		t.Error("an empty folder is one where nothing is mounted")
	}
	writeFile(t, dir+"/register", "", 0o200)
	writeFile(t, dir+"/status", "enabled\n", 0o644)
	writeFile(t, dir+"/qemu", "enabled\ninterpreter /usr/bin/qemu\nflags: OC\noffset 0\nmagic 7f454c4602\nmask fffffffffe\n", 0o644)
	writeFile(t, dir+"/deep", "enabled\ninterpreter /x\nflags: \noffset 2\nmagic 6869\n", 0o644)
	writeFile(t, dir+"/script", "enabled\ninterpreter /x\nflags: \nextension .py\n", 0o644)
	writeFile(t, dir+"/off", "disabled\ninterpreter /x\nflags: \noffset 0\nmagic 6f66\n", 0o644)
	all, known := readFormats(dir)
	if !known || len(all) != 3 {
		t.Fatalf("%+v, %v", all, known)
	}
	for _, test := range []struct {
		name, head string
		want       bool
	}{
		{"/a", "\x7fELF\x02...", true}, {"/a", "\x7fELF\x03", true}, {"/a", "\x7fELF\x01", false}, {"/a", "\x7fELF", false},
		{"/a", "..hi", true}, {"/a", "hi", false}, {"/a.py", "", true}, {"/apy", "", false}, {"/a", "of", false},
	} {
		if got := slices.ContainsFunc(all, func(f format) bool { return f.isFor(test.name, []byte(test.head)) }); got != test.want {
			t.Errorf("%q %q: %v", test.name, test.head, got)
		}
	}
	writeFile(t, dir+"/status", "disabled\n", 0o644)
	if all, known := readFormats(dir); !known || len(all) > 0 {
		t.Errorf("switched off: %v, %v", all, known)
	}
}

// A broken or strange file is nothing that could be told.
func FuzzDynamic(f *testing.F) {
	if text, err := os.ReadFile("/bin/true"); err == nil {
		f.Add(text)
	}
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(_ *testing.T, text []byte) {
		r := bytes.NewReader(text)
		dynamicOf(r)
		interpreterOf(r)
		forThisMachine(text)
	})
}

func writeFile(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}
