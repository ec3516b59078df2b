package main

import (
	"strings"
	"time"

	"activator/test/kernels/plan"
)

// kernel is one of Debian's.
type kernel struct {
	name, arch string
	pkg        string // the package that depends on the newest one
	notRun     string // why it is not run; empty: it is
}

// mode is how a kernel is booted and what its guest then sets.
type mode struct {
	name    string // empty: nothing is changed
	cmdline string
	sysctl  map[string]string
	hidden  bool   // hidepid on /proc
	noExec  bool   // on /tmp
	lines   int    // of the README's five, how many can answer; 0: all
	noSuite string // why the escape suite does not run; "": it does
	refused map[string][]string
}

type boot struct {
	kernel
	mode
	important bool // run without -all
	probes    string
	packages  []string
}

func (b boot) name() string {
	return strings.TrimSpace(b.kernel.name + " " + b.arch + " " + b.mode.name)
}

var (
	amd61  = kernel{name: "6.1", arch: "amd64", pkg: "linux-image-cloud-amd64"}
	arm61  = kernel{name: "6.1", arch: "arm64", pkg: "linux-image-cloud-arm64"}
	amd612 = kernel{name: "6.12", arch: "amd64", pkg: "linux-image-6.12-cloud-amd64"}
	arm612 = kernel{name: "6.12", arch: "arm64", pkg: "linux-image-6.12-cloud-arm64"}
)

// tested are the packages whose own tests run in a guest.
var tested = []string{"internal/process/vfork", "internal/sandbox", "internal/sandbox/seccomp", "internal/process", "internal/process/guard", "internal/process/reaper", "internal/listen", "internal/kernel/cgroup", "internal/kernel/sockdiag", "internal/netns", "internal/seal/udprelay", "internal/seal/sockfilter"}

var boots = []boot{
	{kernel: amd61, important: true, packages: tested},
	{kernel: arm61, important: true, packages: tested},
	{kernel: amd612, important: true, packages: tested},
	{kernel: arm612, packages: tested},
	{kernel: amd61, mode: mode{name: "no Landlock", cmdline: "lsm=lockdown,yama,integrity,apparmor,bpf"}, important: true},
	{kernel: amd61, probes: "sockets", mode: mode{name: "no IPv6", cmdline: "ipv6.disable=1", lines: 3, noSuite: "the suite needs IPv6"}},
	{kernel: amd61, probes: "sockets", mode: mode{name: "user namespaces refused to users", sysctl: map[string]string{"kernel/unprivileged_userns_clone": "0"},
		refused: map[string][]string{plan.User: {"kernel.unprivileged_userns_clone"}}}},
	{kernel: amd61, probes: "sockets", mode: mode{name: "user namespaces refused to all", sysctl: map[string]string{"user/max_user_namespaces": "0"},
		refused: map[string][]string{plan.Root: {"user.max_user_namespaces"}, plan.User: {"user.max_user_namespaces"}}}},
	{kernel: amd61, probes: "sockets", mode: mode{name: "hidepid=2", hidden: true}},
	{kernel: amd61, probes: "sockets", mode: mode{name: "noexec /tmp", noExec: true}},
	{kernel: kernel{name: "5.15", arch: "amd64", notRun: "no release of Debian has it"}, important: true},
}

// plan is what the guest is to do. timeout is that of the five lines' client.
func (b boot) plan(timeout time.Duration) plan.Plan {
	p := plan.Plan{Sysctl: b.sysctl, ProcHidden: b.hidden, TmpNoExec: b.noExec, Probes: b.probes, Lines: 5, Refused: b.refused, Packages: b.packages,
		SocatTimeout: timeout,
		Steps:        []string{plan.Doctor, plan.Check, plan.Lines, plan.Bind, plan.Proxy, plan.Idle, plan.Kill, plan.Escape}}
	if b.lines > 0 {
		p.Lines = b.lines
	}
	if p.Probes == "" {
		p.Probes = "all"
	}
	if b.noSuite != "" {
		p.Steps = p.Steps[:len(p.Steps)-1]
	}
	if len(b.packages) > 0 && *all {
		p.Steps = append(p.Steps, plan.Packages)
	}
	if *steps != "" {
		p.Steps = strings.Split(*steps, ",")
	}
	return p
}
