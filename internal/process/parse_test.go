package process

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"activator/internal/spec"
)

func TestPlanTravels(t *testing.T) {
	full := &plan{Sockets: 2, Engine: true, Process: spec.Process{Argv: []string{"a", ""}, Env: []string{"A=\x01", "B=ü", "C=\xff\xfe"}, Dir: "/", Umask: 0o22, Watchdog: time.Second,
		Limits: []spec.Limit{{Resource: "nofile", Soft: 1, Hard: ^uint64(0)}}, FDNames: []string{"x", ""}, Handed: spec.LaterStdio, Bare: true}}
	done := []string{"Name", "ID", "User", "Group", "Notify", "StoreMax", "Syslog", "Directories", "Sandbox"} // before the reaper is told
	for _, value := range []any{*full, full.Process, full.Limits[0]} {
		for i := range reflect.TypeOf(value).NumField() {
			name := reflect.TypeOf(value).Field(i).Name
			if reflect.ValueOf(value).Field(i).IsZero() && !slices.Contains(done, name) {
				t.Errorf("%T: give %s a value here, and a line in codec", value, name)
			}
		}
	}
	for _, want := range []*plan{
		{},
		full,
		{Process: spec.Process{Env: []string{"LONG=" + strings.Repeat("x", 1<<20)}}},
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
	c.codePlan(&plan{Process: spec.Process{Argv: []string{"a"}, Limits: []spec.Limit{{Resource: "nofile", Soft: 1, Hard: 2}}}})
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
