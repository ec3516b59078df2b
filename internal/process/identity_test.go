package process

import (
	"math"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"testing"

	"activator/internal/spec"
)

// A map of as many others as a service may see, with the longest numbers, is less than a page: the kernel takes no other.
func TestMapFitsAPage(t *testing.T) {
	others := make([]int, mostSeen)
	for i := range others {
		others[i] = math.MaxInt32 - 1 - i
	}
	text := mapLines(math.MaxInt32, math.MaxInt32, others)
	if lines := strings.Count(text, "\n"); lines != mostSeen+1 || len(text) >= os.Getpagesize() {
		t.Errorf("%d lines, %d bytes", lines, len(text))
	}
}

// A user without an account is called as its service: in the environment and in the passwd(5) that it sees.
func TestNamelessUser(t *testing.T) {
	number := 54321
	for ; ; number++ {
		if _, err := user.LookupId(strconv.Itoa(number)); err != nil {
			break
		}
	}
	process := spec.Process{Name: "shop", User: strconv.Itoa(number)}
	id, err := lookUpUser(&process, 0)
	if err != nil || id.uid != number || id.gid != number {
		t.Fatalf("%+v, %v", id, err)
	}
	env := id.completeEnv([]string{"A=b"})
	if want := []string{"A=b", "HOME=/", "USER=shop"}; !slices.Equal(env, want) {
		t.Errorf("%q, not %q", env, want)
	}
	if in := id.inside(&process, false); in.Name != "shop" || in.UID != number {
		t.Errorf("%+v", in)
	}
}

// What is found of one service is not told of another one that reports something else.
func TestExamineWhatIsReported(t *testing.T) {
	locked := spec.Sandbox{ReadOnly: []spec.Mount{{Host: t.TempDir(), Inside: "/run"}}}
	var e Examiner
	for _, test := range []struct {
		process spec.Process
		want    string
	}{
		{spec.Process{Notify: true}, "notify"}, {spec.Process{Syslog: true}, "syslog"}, {spec.Process{Notify: true, Syslog: true}, "notify syslog"}, {spec.Process{}, ""},
	} {
		process := test.process
		process.Name, process.Argv, process.Sandbox = "reports", []string{"/bin/true"}, locked
		var steps []string
		for _, found := range e.Examine(process) {
			steps = append(steps, found.Step)
		}
		if got := strings.Join(steps, " "); got != test.want {
			t.Errorf("%q, not %q", got, test.want)
		}
	}
}
