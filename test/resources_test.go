package test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"activator/internal/kernel/cgroup"
	"activator/internal/spec"
)

// Limits that a control group keeps: where there is none to divide, check and the log say so, and
// the service works all the same; tasks_max is kept in any case.
func TestResources(t *testing.T) {
	dir := folder(t)
	conf := configureIn(t, dir, "bounded", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/s\"]\n[service]\nexec = [\"ECHO\"]\n"+
		"memory_max = \"256M\"\ntasks_max = 40\ncpu_weight = 50\n", dir))
	unkept, err := cgroup.Examine(spec.Resources{MemoryMax: 1, TasksMax: 1, CPUWeight: 1})
	kept := err == nil && len(unkept) == 0
	out, failed := exec.Command(program(t, "activator"), "check", "--config", conf).CombinedOutput()
	said := string(out)
	if failed != nil || strings.Contains(said, "memory_max is not kept here") == kept || strings.Contains(said, "tasks_max is kept here by nproc alone") == kept {
		t.Errorf("%v, %v, %v:\n%s", unkept, err, failed, said)
	}
	a := activate(t, "--memory-max", "1G", "--config", conf)
	answered(t, "bounded", "unix:"+dir+"/s")
	line := a.wait("state=running")
	if kept {
		return // test/kernels has the rest
	}
	a.wait("level=WARN", "limit not kept: memory_max")
	a.wait("level=WARN", "limit not kept: cpu_weight")
	a.wait("level=WARN", "limit not kept: --memory-max")
	a.wait("level=INFO", "tasks_max", "nproc")
	text, err := os.ReadFile("/proc/" + field(line, "pid") + "/limits")
	if err != nil || !strings.Contains(strings.Join(strings.Fields(string(text)), " "), "Max processes 40 40") {
		t.Errorf("%v\n%s", err, text)
	}
}

// A word that is no size is an error of the command line.
func TestMemoryMaxFlag(t *testing.T) {
	for _, text := range []string{"", "much", "1", "-1M"} {
		dir := folder(t)
		conf := configureIn(t, dir, "echo", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/s\"]\n[service]\nexec = [\"ECHO\"]\n", dir))
		cmd := exec.Command(program(t, "activator"), "--memory-max", text, "--config", conf)
		said, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != 2 || !strings.Contains(string(said), "--memory-max") {
			t.Errorf("%s: exit %d: %s", text, code, said)
		}
	}
}
