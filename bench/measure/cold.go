package measure

import "activator/bench/report"

var cold = Measurement{
	Name:  "cold-start",
	Title: "Cold start",
	How: `From before the client's connect(2) to the first byte it gets back, while no service runs: the same ` + "`bin/echo`" + `
everywhere, which ends after each answer. Everybody stands ready, with 10 ms of rest, before the client comes; what it
takes to get ready again is not measured. systemd-socket-activate becomes the program it starts, so it is started anew for
each client. The line in each bar goes from the least to the 90th percentile.`,
	Run: runCold,
}

const (
	oursWarm     = "activator (warm, the default)"
	oursCold     = "activator, warm = false"
	oursUnsealed = "activator, seal = \"off\""
	bare         = "systemd-socket-activate"
	withUnshare  = bare + " + unshare -n"
	withBwrap    = bare + " + bwrap --unshare-all"
	withMounts   = bare + " + bwrap, our mounts"
	oursPodman   = "activator, [container] podman"
	withPodman   = bare + " + podman run"
)

const unsealed = "[sandbox]\nseal = \"off\"\n"

// coldCases are run by the user that runs us; add yours.
var coldCases = []contender{
	{oursWarm, true, ours(asSelf, true, "")},
	{oursCold, true, ours(asSelf, false, "")},
	{oursUnsealed, true, ours(asSelf, true, unsealed)},
	{bare, false, peer(asSelf, echoOnce...)},
	{withUnshare, false, peer(asSelf, append(unshareNet(), echoOnce...)...)},
	{withBwrap, false, peer(asSelf, append(bwrapLeast, echoOnce...)...)},
	{withMounts, false, peer(asSelf, append(bwrapMounts, "/echo", "--exit-after", "1")...)},
}

// userCases are run by an ordinary user where we are root.
var userCases = []contender{
	{oursWarm, true, ours(asUser, true, "")},
	{oursCold, true, ours(asUser, false, "")},
	{oursUnsealed, true, ours(asUser, true, unsealed)},
	{bare, false, peer(asUser, echoOnce...)},
	{withBwrap, false, peer(asUser, append(bwrapLeast, echoOnce...)...)},
}

var podmanCases = []contender{
	{oursWarm, true, ours(asSelf, true, "")},
	{oursPodman, true, oursInPodman},
	{withPodman, false, peerPodman},
}

// In the argument vectors of peers ECHO is our echo.
var (
	echoOnce = []string{"ECHO", "--exit-after", "1"}

	// bwrapLeast has the fewest mounts that bwrap can do with. As its first process
	// the program knows its LISTEN_PID beforehand.
	bwrapLeast = []string{"bwrap", "--unshare-all", "--as-pid-1", "--setenv", "LISTEN_PID", "1", "--ro-bind", "/", "/"}

	// bwrapMounts sees inside what our default shows.
	bwrapMounts = []string{"bwrap", "--unshare-all", "--die-with-parent", "--as-pid-1", "--setenv", "LISTEN_PID", "1",
		"--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc", "--symlink", "usr/bin", "/bin", "--symlink", "usr/sbin", "/sbin",
		"--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev",
		"--tmpfs", "/tmp", "--tmpfs", "/run", "--tmpfs", "/var", "--ro-bind", "ECHO", "/echo"}
)

func runCold(b *Bench, p *report.Part) error {
	table := report.Table{Unit: "ms", Base: bare, Picture: report.Bars}
	table.Rows = b.alternate(b.rounds(100), coldCases)
	p.Tables = append(p.Tables, table)
	p.Goals = append(p.Goals,
		ratio(table, "cold start, warm, to systemd-socket-activate (isolates nothing)", oursWarm, bare, 0.90),
		ratio(table, "cold start, warm = false, to systemd-socket-activate + bwrap --unshare-all", oursCold, withBwrap, 0.75),
		ratio(table, "the seal: default to seal = \"off\"", oursWarm, oursUnsealed, 1.10))

	containers := report.Table{Title: "Against containers", Unit: "ms", Base: oursWarm, Picture: report.LogBars}
	containers.Rows = b.alternate(b.rounds(12), podmanCases)
	p.Tables = append(p.Tables, containers)
	p.Goals = append(p.Goals, atLeast("cold start, times faster than podman", "", 30,
		quotient(containers.Row(withPodman), containers.Row(oursWarm))))

	if _, err := asRoot(b); err != nil {
		return nil // the first table was an ordinary user's
	}
	user := report.Table{Title: "As an ordinary user", Unit: "ms", Base: bare, Picture: report.Bars}
	user.Rows = b.alternate(b.rounds(60), userCases)
	p.Tables = append(p.Tables, user)
	p.Goals = append(p.Goals, ratio(user, "the seal as an ordinary user: default to seal = \"off\"", oursWarm, oursUnsealed, 1.10))
	return nil
}
