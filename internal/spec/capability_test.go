package spec

import "testing"

func TestCapabilities(t *testing.T) {
	for name, want := range map[string]uintptr{"CAP_CHOWN": 0, "chown": 0, "cap_Net_Raw": 13, "CAP_CHECKPOINT_RESTORE": 40} {
		if number, ok := ParseCapability(name); !ok || number != want {
			t.Errorf("%s: %d, %v", name, number, ok)
		}
	}
}

func FuzzParseCapability(f *testing.F) {
	for _, name := range Capabilities {
		f.Add(name)
	}
	f.Add("CAP_CAP_CHOWN")
	f.Fuzz(func(t *testing.T, name string) {
		number, ok := ParseCapability(name)
		if again, known := ParseCapability(Capabilities[number]); ok && (!known || again != number) {
			t.Errorf("%q is %d, which is %d", name, number, again)
		}
	})
}
