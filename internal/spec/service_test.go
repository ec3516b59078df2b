package spec

import (
	"reflect"
	"testing"
)

// What follows from several keys together.
func TestComplete(t *testing.T) {
	sockets := []Socket{{Name: "a"}, {Name: "b"}}
	for _, tt := range []struct {
		service      Service
		handed       Handed
		names        []string
		sealed, bind bool
	}{
		{Service{Handover: FDs}, AtStart, []string{"a", "b"}, true, false},
		{Service{Handover: FDs, Accept: true}, LaterFD, []string{"connection"}, true, false},
		{Service{Handover: Stdio}, StdioStart, nil, true, false},
		{Service{Handover: Stdio, Accept: true}, LaterStdio, nil, true, false},
		{Service{Handover: Bind, Seal: "best-effort"}, AtStart, []string{"a", "b"}, true, true},
		{Service{Handover: Proxy}, AtStart, []string{"a", "b"}, false, false},
		{Service{Handover: FDs, Seal: "off"}, AtStart, []string{"a", "b"}, false, false},
	} {
		s := tt.service
		s.Sockets, s.Warm, s.Stdout = sockets, true, "log"
		s.Complete()
		if s.Handed != tt.handed || !reflect.DeepEqual(s.FDNames, tt.names) || s.Sandbox.Seal != tt.sealed || s.Sandbox.Bind != tt.bind {
			t.Errorf("%+v: got %d, %q, sealed %v, bind %v", tt.service, s.Handed, s.FDNames, s.Sandbox.Seal, s.Sandbox.Bind)
		}
		if !s.Warm || (s.Stdout == "null") != (s.Handover == Stdio) {
			t.Errorf("%+v: warm %v, stdout %q", tt.service, s.Warm, s.Stdout)
		}
		again := s
		if again.Complete(); !reflect.DeepEqual(again, s) {
			t.Errorf("once more: %+v, before %+v", again, s)
		}
	}
	s := Service{Warm: true, Container: new(Container)}
	if s.Complete(); s.Warm {
		t.Error("a container stands ready")
	}
}
