package spawn

import (
	"bytes"
	"encoding/binary"
	"os"
	"reflect"
	"strings"
	"testing"

	"activator/internal/sandbox"
)

func TestPlanTravels(t *testing.T) {
	resolved, err := sandbox.Spec{}.Resolve("x", "/opt/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	full := &plan{Argv: []string{"a", ""}, Env: []string{"A=\x01", "B=ü", "C=\xff\xfe"}, Dir: "/", Umask: 0o22, Limits: []Limit{{"nofile", 1, ^uint64(0)}},
		FDNames: []string{"x", ""}, Sockets: 2, Handed: LaterStdio, Sandbox: resolved, Trees: []int{4, -1, 5}, Notify: 6, NotifyPath: "/n", Init: true, Inner: true}
	resolved.Keep, resolved.NewPrivs, resolved.Listener, resolved.Threads, resolved.Keys = 1<<63, true, true, true, true
	resolved.Filter = []byte{0xff, 0}
	resolved.Landlock = sandbox.Landlock{Files: 1, Net: 2, Scoped: 1 << 63, Grants: []sandbox.Grant{{Path: "/p", FD: 1, Access: 1 << 40, Optional: true}}}
	resolved.Entries = append(resolved.Entries, sandbox.Entry{Kind: sandbox.Writable, Path: "/p", Source: "/s", Mode: 1, Size: 1 << 40, Optional: true, Asked: true})
	for _, value := range []any{*full, full.Limits[0], *resolved, resolved.Entries[len(resolved.Entries)-1], resolved.Landlock, resolved.Landlock.Grants[0]} {
		for i := range reflect.TypeOf(value).NumField() {
			if reflect.ValueOf(value).Field(i).IsZero() {
				t.Errorf("%T: give %s a value here, and a line in codec", value, reflect.TypeOf(value).Field(i).Name)
			}
		}
	}
	for _, want := range []*plan{
		{},
		full,
		{Env: []string{"LONG=" + strings.Repeat("x", 1<<20)}},
	} {
		var wire bytes.Buffer
		if err := writePlan(&wire, want); err != nil {
			t.Fatal(err)
		}
		got, err := readPlan(&wire)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v, got %+v, want %+v", err, got, want)
		}
	}
}

func FuzzReadPlan(f *testing.F) {
	f.Add([]byte{})
	c := codec{}
	c.plan(&plan{Argv: []string{"a"}, Sandbox: &sandbox.Plan{Entries: []sandbox.Entry{{Path: "/x"}}, Filter: []byte("filter!!"), Landlock: sandbox.Landlock{Grants: []sandbox.Grant{{Path: "/"}}}}, Trees: []int{-1}})
	f.Add(c.data)
	f.Fuzz(func(t *testing.T, data []byte) {
		wire := binary.LittleEndian.AppendUint32(nil, uint32(len(data)))
		p, err := readPlan(bytes.NewReader(append(wire, data...)))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := writePlan(&again, p); err != nil {
			t.Fatal(err)
		}
		if q, err := readPlan(&again); err != nil || !reflect.DeepEqual(p, q) {
			t.Errorf("%v: %+v, %+v", err, p, q)
		}
	})
}

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
