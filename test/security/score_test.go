package security

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"activator/internal/ktest"
)

// limit is the worst exposure the default sandbox may have, in tenths.
const limit = 10

// privateNetwork is what most unit files do against the network.
var privateNetwork = unit{"PrivateNetwork": "yes"}

// score is exposure as systemd writes it.
func score(u unit) string {
	e := exposure(u)
	return fmt.Sprintf("%d.%d", e/10, e%10)
}

func TestScore(t *testing.T) {
	o := inSandbox(t, "")
	u := unitOf(o)
	if o.Outside.Filters == nil {
		t.Logf("the kernel does not show us the filters (%s): the answers to the calls have to do", o.Outside.Why)
	}
	if exposure(u) > limit {
		t.Errorf("the default sandbox is exposed by %s, more than 1.0: %s", score(u), missing(u))
	}
	for _, q := range questions {
		if q.badness(u) > 0 && q.open == "" {
			t.Errorf("%s adds %d points, and nobody says why", q.id, q.points(u))
		}
	}
	t.Logf("the default sandbox: %s, PrivateNetwork=yes alone: %s", score(u), score(privateNetwork))
	if t.Failed() {
		t.Logf("the unit that was measured:\n%s", u)
	}
	compareTable(t, u)
}

// missing lists the questions that are answered badly, by what they cost.
func missing(u unit) string {
	bad := slices.DeleteFunc(slices.Clone(questions), func(q question) bool { return q.points(u) == 0 })
	slices.SortStableFunc(bad, func(a, b question) int { return b.points(u) - a.points(u) })
	var b strings.Builder
	for _, q := range bad {
		fmt.Fprintf(&b, "\n  %5d  %s", q.points(u), q.id)
	}
	return b.String()
}

// What is denied without a sandbox is no merit: the same measurement has to
// see that almost everything is open.
func TestWithoutSandbox(t *testing.T) {
	o := bare(t, "bare")
	u := unitOf(o)
	for _, who := range []string{"an accepted connection", "a socket of its own", "the datagram socket", "the listener", wordless} {
		if (who == "the listener" || who == wordless) && ktest.ListenersStay(t) {
			t.Logf("this kernel connects nothing that has listened")
			continue
		}
		if !slices.Contains(o.Outside.Arrived, who) {
			t.Errorf("%s did not get through to the host's network: the attempt is worth nothing (%q did)", who, o.Outside.Arrived)
		}
	}
	for _, key := range []string{"PrivateMounts", "PrivateNetwork", "PrivateTmp", "PrivateUsers", "PrivateDevices", "ProtectHostname", "ProtectSystem",
		"ProtectProc", "ProtectClock", "RemoveIPC", "RestrictSUIDSGID", "RootDirectory", "RestrictNamespaces", "RestrictAddressFamilies",
		"SystemCallFilter", "SystemCallArchitectures", "IPAddressDeny", "LockPersonality", "MemoryDenyWriteExecute"} {
		if value, proven := u[key]; proven {
			t.Errorf("%s=%s is thought to be proven of a process without any sandbox", key, value)
		}
	}
	if exposure(u) < 85 {
		t.Errorf("a process without any sandbox is exposed by only %s:\n%s", score(u), u)
	}
}

// Every key of [sandbox] that opens something costs its own questions.
func TestOpeningIsSeen(t *testing.T) {
	closed := unitOf(inSandbox(t, ""))
	opened := unitOf(inSandbox(t, "[sandbox]\nnetwork = \"host\"\ncapabilities = [\"CAP_NET_BIND_SERVICE\"]\n"))
	for _, q := range questions {
		want := slices.Contains([]string{"PrivateNetwork=", "IPAddressDeny=", "CapabilityBoundingSet=~CAP_NET_(BIND_SERVICE|BROADCAST|RAW)", "AmbientCapabilities="}, q.id)
		if worse := q.points(opened) > q.points(closed); worse && !want || want && q.points(opened) < q.weight {
			t.Errorf("%s: %d points with the host's network and CAP_NET_BIND_SERVICE, %d without", q.id, q.points(opened), q.points(closed))
		}
	}
}

// systemd answers the same, question by question.
func TestFormula(t *testing.T) {
	version, err := exec.Command("systemd-analyze", "--version").Output()
	if err != nil {
		ktest.Skip(t, "systemd-analyze: %v: install systemd; nothing of it needs to run", err)
	}
	if !strings.HasPrefix(string(version), "systemd 252 ") {
		ktest.Skip(t, "the questions and groups are those of systemd 252, not of %s", strings.SplitN(string(version), "\n", 2)[0])
	}
	for name, u := range map[string]unit{"default": unitOf(inSandbox(t, "")), "private-network": privateNetwork, "bare": unitOf(bare(t, "bare")), "empty": {}} {
		t.Run(name, func(t *testing.T) { compareFormula(t, u) })
	}
}

// compareFormula has systemd-analyze assess the unit as a file.
func compareFormula(t *testing.T, u unit) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "score.service")
	if err := os.WriteFile(path, []byte(u.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	var theirs []struct {
		Name                   string
		Weight, Badness, Range json.Number
	}
	if err := json.Unmarshal(analyze(t, path, "--json=short"), &theirs); err != nil {
		t.Fatal(err)
	}
	if len(theirs) != len(questions) {
		t.Errorf("systemd asks %d questions, we %d", len(theirs), len(questions))
	}
	for _, their := range theirs {
		i := slices.IndexFunc(questions, func(q question) bool { return q.id == their.Name })
		if i < 0 {
			t.Errorf("%s is not among our questions", their.Name)
			continue
		}
		q := questions[i]
		badness := fmt.Sprint(q.badness(u))
		if q.badness(u) < 0 {
			badness = "18446744073709551615" // UINT64_MAX: does not apply
		}
		if their.Weight != json.Number(fmt.Sprint(q.weight)) || their.Range != json.Number(fmt.Sprint(q.scale)) || their.Badness != json.Number(badness) {
			t.Errorf("%s: systemd says weight %s, badness %s of %s; we %d, %s of %d",
				q.id, their.Weight, their.Badness, their.Range, q.weight, badness, q.scale)
		}
	}
	if said := string(analyze(t, path)); !strings.Contains(said, "for score.service: "+score(u)+" ") {
		t.Errorf("we say %s, systemd: %s", score(u), said[max(0, len(said)-100):])
	}
	if t.Failed() {
		t.Logf("the unit:\n%s", u)
	}
}

func analyze(t *testing.T, path string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("systemd-analyze", append([]string{"security", "--offline=true", "--no-pager", "--threshold=100"}, append(args, path)...)...)
	cmd.Env = append(os.Environ(), "SYSTEMD_ANALYZE_DEBUG=1", "SYSTEMD_COLORS=0", "SYSTEMD_URLIFY=0")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("systemd-analyze: %v: %s", err, errs.String())
	}
	return out
}
