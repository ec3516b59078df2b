package stand

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"activator/bench/report"
)

// Machine says where we are.
func Machine() []report.Fact {
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	load, _ := os.ReadFile("/proc/loadavg")
	whoami := "?"
	if u, err := user.Current(); err == nil {
		whoami = u.Username
	}
	return []report.Fact{
		{Name: "processors", Value: fmt.Sprintf("%d, %s", runtime.NumCPU(), field("/proc/cpuinfo", "model name"))},
		{Name: "memory", Value: field("/proc/meminfo", "MemTotal")},
		{Name: "kernel", Value: unix.ByteSliceToString(uts.Release[:]) + " " + unix.ByteSliceToString(uts.Machine[:])},
		{Name: "system", Value: strings.Trim(value("/etc/os-release", "PRETTY_NAME="), `"`)},
		{Name: "run by", Value: whoami},
		{Name: "load before the run", Value: strings.Join(strings.Fields(string(load))[:3], " ") + " (of 1, 5, 15 minutes)"},
	}
}

// field is a value of a file of lines "KEY : VALUE".
func field(path, key string) string {
	return strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(value(path, key)), ":"))
}

func value(path, prefix string) string {
	text, _ := os.ReadFile(path)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			return strings.TrimSpace(rest)
		}
	}
	return "?"
}

// versions are the commands that print the version of a program on a line.
var versions = [][]string{
	{"systemd-socket-activate", "--version"},
	{"systemd-socket-proxyd", "--version"},
	{"bwrap", "--version"},
	{"podman", "--version"},
	{"unshare", "--version"},
	{"xinetd", "-version"},
	{"haproxy", "-v"},
	{"nginx", "-v"},
	{"wrk", "-v"},
	{"iperf3", "--version"},
}

// Versions says of what the peers are, and which are missing.
func (w *World) Versions() []report.Fact {
	facts := []report.Fact{{Name: "activator", Value: firstLine(w.Program("activator"), "version") + commit()}}
	for _, argv := range versions {
		f := report.Fact{Name: argv[0], Value: "absent"}
		if path, err := Find(argv[0]); err == nil {
			f.Value = firstLine(path, argv[1:]...)
		}
		facts = append(facts, f)
	}
	return facts
}

// commit is of the checkout that we are in; nothing where git does not answer.
func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return ""
	}
	return ", commit " + strings.TrimSpace(string(out))
}

// firstLine ignores the exit code: xinetd and wrk end with 1.
func firstLine(path string, args ...string) string {
	out, _ := exec.Command(path, args...).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); line != "" {
			return line
		}
	}
	return "?"
}
