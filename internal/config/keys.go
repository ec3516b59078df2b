package config

import (
	"io/fs"
	"strconv"
	"sync"
	"syscall"
	"time"

	"activator/internal/spec"
)

// The keys, in the order of the reference. Each has a kind, a place and a
// default; without says what holds where no value says it, only where it has a
// meaning.

// group is one [[socket]] table.
type group struct {
	listen []place
	spec.Socket
}

// fitsSocket is the condition that an address of the group fits.
func fitsSocket(words string, fits func(a spec.Address) bool) func(*group) string {
	return func(g *group) string {
		for _, a := range g.listen {
			if fits(a.Address) {
				return ""
			}
		}
		return "it is for " + words
	}
}

var (
	onTCP      = fitsSocket("tcp://", spec.Address.IsTCP)
	onUDP      = fitsSocket("udp://", spec.Address.IsUDP)
	onInternet = fitsSocket("tcp:// and udp://", spec.Address.IsInternet)
	onUnix     = fitsSocket("unix sockets", spec.Address.IsUnix)
	onStream   = fitsSocket("sockets with connections", spec.Address.IsStream)
	onFIFO     = fitsSocket("fifo://", isFIFO)
	onPath     = fitsSocket("paths", func(a spec.Address) bool { return a.Node() != "" })
	onIPv6     = fitsSocket("addresses of IPv6", isIPv6)
	onBuffered = fitsSocket("tcp://, udp:// and unix sockets", func(a spec.Address) bool { return a.IsInternet() || a.IsUnix() })
	onStamped  = fitsSocket("tcp://, udp:// and unixgram://", func(a spec.Address) bool {
		return a.IsInternet() || a.Network == spec.UnixGram
	})
)

func isFIFO(a spec.Address) bool { return a.Network == spec.FIFO }

func isIPv6(a spec.Address) bool {
	return a.IsInternet() && a.Network != spec.TCP4 && a.Network != spec.UDP4 && !a.IP.Is4()
}

func withKeepAlive(g *group) string {
	if !g.Options.KeepAlive {
		return "keep_alive is not true"
	}
	return ""
}

const (
	most        = 1<<31 - 1
	mostStored  = 512                 // a program has 1,024 descriptors, if nothing is said
	mostKeeping = 32767 * time.Second // MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL
)

var socketKeys = sync.OnceValue(func() []field[group] {
	return []field[group]{
		key("listen", list(address), func(g *group) *[]place { return &g.listen }, nil),
		key("name", fdName, func(g *group) *string { return &g.Name }, "").without("the service's name"),
		key("backlog", number[int](1, most), func(g *group) *int { return &g.Options.Backlog }, 0).without("the kernel's limit").only(onStream),
		key("socket_mode", mode, func(g *group) *fs.FileMode { return &g.Options.SocketMode }, 0o666).marked(func(g *group) *bool { return &g.Options.SocketModeSet }).only(onPath),
		key("socket_user", account, func(g *group) *string { return &g.Options.SocketUser }, "").without("ours").only(onPath),
		key("socket_group", account, func(g *group) *string { return &g.Options.SocketGroup }, "").without("ours").only(onPath),
		key("directory_mode", folderMode, func(g *group) *fs.FileMode { return &g.Options.DirectoryMode }, 0o755).only(onPath),
		key("remove_on_stop", inverted, func(g *group) *bool { return &g.Options.KeepOnStop }, false).only(onPath),
		key("symlinks", distinct(hostPath), func(g *group) *[]string { return &g.Options.Symlinks }, nil).only(onPath),
		key("bind_ipv6_only", choice("default", "both", "ipv6-only"), func(g *group) *string { return &g.Options.BindIPv6Only }, "").without("as the form of the address says").only(onIPv6),
		key("bind_to_device", kernelName("an interface"), func(g *group) *string { return &g.Options.BindToDevice }, "").without("all interfaces").only(onInternet),
		key("free_bind", boolean, func(g *group) *bool { return &g.Options.FreeBind }, false).only(onInternet),
		key("transparent", boolean, func(g *group) *bool { return &g.Options.Transparent }, false).only(onInternet),
		key("reuse_port", boolean, func(g *group) *bool { return &g.Options.ReusePort }, false).only(onInternet),
		key("no_delay", boolean, func(g *group) *bool { return &g.Options.NoDelay }, false).only(onTCP),
		key("keep_alive", boolean, func(g *group) *bool { return &g.Options.KeepAlive }, false).only(onTCP),
		key("keep_alive_time", seconds(mostKeeping), func(g *group) *time.Duration { return &g.Options.KeepAliveTime }, 0).without("the kernel's").only(onTCP).only(withKeepAlive),
		key("keep_alive_interval", seconds(mostKeeping), func(g *group) *time.Duration { return &g.Options.KeepAliveInterval }, 0).without("the kernel's").only(onTCP).only(withKeepAlive),
		key("keep_alive_probes", number[int](1, 127), func(g *group) *int { return &g.Options.KeepAliveProbes }, 0).without("the kernel's").only(onTCP).only(withKeepAlive),
		key("defer_accept", seconds(mostKeeping), func(g *group) *time.Duration { return &g.Options.DeferAccept }, 0).without("off").only(onTCP),
		key("tcp_congestion", kernelName("a way to control congestion"), func(g *group) *string { return &g.Options.TCPCongestion }, "").without("the kernel's").only(onTCP),
		key("mptcp", boolean, func(g *group) *bool { return &g.Options.MPTCP }, false).only(onTCP),
		key("receive_buffer", size, func(g *group) *int { return &g.Options.ReceiveBuffer }, 0).without("the kernel's").only(onBuffered),
		key("send_buffer", size, func(g *group) *int { return &g.Options.SendBuffer }, 0).without("the kernel's").only(onBuffered),
		key("priority", number[int](0, most), func(g *group) *int { return &g.Options.Priority }, 0).without("the kernel's").marked(func(g *group) *bool { return &g.Options.PrioritySet }).only(onInternet),
		key("mark", number[uint32](1, 1<<32-1), func(g *group) *uint32 { return &g.Options.Mark }, 0).without("none").only(onInternet),
		key("ip_tos", number[int](0, 255), func(g *group) *int { return &g.Options.IPTOS }, 0).without("the kernel's").marked(func(g *group) *bool { return &g.Options.IPTOSSet }).only(onInternet),
		key("ip_ttl", number[int](1, 255), func(g *group) *int { return &g.Options.IPTTL }, 0).without("the kernel's").only(onInternet),
		key("broadcast", boolean, func(g *group) *bool { return &g.Options.Broadcast }, false).only(onUDP),
		key("timestamping", choice("off", "us", "ns"), func(g *group) *string { return &g.Options.Timestamping }, "off").only(onStamped),
		key("pass_credentials", boolean, func(g *group) *bool { return &g.Options.PassCredentials }, false).only(onUnix),
		key("pass_security", boolean, func(g *group) *bool { return &g.Options.PassSecurity }, false).only(onUnix),
		key("pass_packet_info", boolean, func(g *group) *bool { return &g.Options.PassPacketInfo }, false).only(onUDP),
		key("pass_rights", inverted, func(g *group) *bool { return &g.Options.RefuseRights }, false).only(onUnix), // see readSockets
		key("pipe_size", size, func(g *group) *int { return &g.Options.PipeSize }, 0).without("the kernel's").only(onFIFO),
		key("non_blocking", boolean, func(g *group) *bool { return &g.Options.NonBlocking }, false),
		key("target", target, func(g *group) *spec.Address { return &g.Target }, spec.Address{}).without("none; it is for handover bind and proxy"),
	}
})

// when is a condition on a service. Where it does not hold, why says why the key has no meaning.
func when(holds func(s *spec.Service) bool, why string) func(*spec.Service) string {
	return func(s *spec.Service) string {
		if holds(s) {
			return ""
		}
		return why
	}
}

var (
	withAccept    = when(func(s *spec.Service) bool { return s.Accept }, "accept is not true")
	withoutAccept = when(func(s *spec.Service) bool { return !s.Accept }, "accept is true, so an instance is there for one client only")
	withProxy     = when(func(s *spec.Service) bool { return s.Handover == spec.Proxy }, "handover is not \"proxy\"")
	ownStdout     = when(func(s *spec.Service) bool { return s.Handover != spec.Stdio }, "handover is \"stdio\", so it is the socket")

	// An engine takes long until it has started the program, and does not say when.
	withBeginning = when(func(s *spec.Service) bool { return s.Container == nil || s.Notify }, "notify is not true, so it is not known when the container's program has begun")

	// With the host's network, inherited sockets reach no farther than sockets that the
	// program opens itself.
	ownNetwork = when(func(s *spec.Service) bool { return s.Sandbox.Network != "host" }, "network is \"host\", so there is nothing to seal")
)

// withConnections is the condition that we make or accept the connections.
func withConnections(s *spec.Service) string {
	if withProxy(s) == "" {
		return ""
	}
	return withAccept(s)
}

// ownSandbox is the condition that there is no container, which has instead.
func ownSandbox(instead string) func(*spec.Service) string {
	return when(func(s *spec.Service) bool { return s.Container == nil }, "[container] has "+instead)
}

// noNetwork is the condition that the container has no network: with one, it may make sockets.
func noNetwork(s *spec.Service) string {
	if s.Sandbox.Network != "none" {
		return "network is " + strconv.Quote(s.Sandbox.Network) + ", so they can be made"
	}
	return ""
}

var serviceKeys = sync.OnceValue(func() []field[spec.Service] {
	return []field[spec.Service]{
		key("exec", list(argument), func(s *spec.Service) *[]string { return &s.Argv }, nil).only(ownSandbox("image and command")),
		key("handover", choice(spec.FDs, spec.Bind, spec.Proxy, spec.Stdio), func(s *spec.Service) *spec.Handover { return &s.Handover }, spec.FDs),
		key("accept", boolean, func(s *spec.Service) *bool { return &s.Accept }, false),
		key("max_connections", number[int](1, most), func(s *spec.Service) *int { return &s.MaxConns }, 0).without("64 with accept, no limit with handover proxy").only(withConnections),
		key("max_connections_per_source", number[int](0, most), func(s *spec.Service) *int { return &s.MaxSource }, 0).only(withAccept),
		key("silent_connection_timeout", duration(time.Minute, "never"), func(s *spec.Service) *time.Duration { return &s.SilentTimeout }, time.Minute).only(withAccept),
		key("connection_timeout", duration(time.Millisecond, "never"), func(s *spec.Service) *time.Duration { return &s.ConnTimeout }, 0).only(withProxy),
		key("proxy_protocol", without("none", choice("none", "v1", "v2")), func(s *spec.Service) *string { return &s.ProxyProtocol }, "").only(withProxy),
		key("environment", environment, func(s *spec.Service) *[]string { return &s.Env }, nil),
		key("working_directory", insidePath, func(s *spec.Service) *string { return &s.Dir }, "/"),
		key("user", account, func(s *spec.Service) *string { return &s.User }, "").without("run by root: an id of the service's own; else who runs the activator"),
		key("group", account, func(s *spec.Service) *string { return &s.Group }, "").without("the user's"),
		key("umask", mode, func(s *spec.Service) *fs.FileMode { return &s.Umask }, 0o022),
		key("limits", limits, func(s *spec.Service) *[]spec.Limit { return &s.Limits }, nil),
		key("memory_max", amount(readSize, 1<<20), func(s *spec.Service) *uint64 { return &s.MemoryMax }, 0).only(ownSandbox("options, as podman(1) has them: --memory")),
		key("tasks_max", amount(readCount, 1), func(s *spec.Service) *uint64 { return &s.TasksMax }, 0).only(ownSandbox("options, as podman(1) has them: --pids-limit")),
		key("cpu_weight", number[uint64](1, 10000), func(s *spec.Service) *uint64 { return &s.CPUWeight }, 0).without("100, which others have").only(ownSandbox("options, as podman(1) has them: --cpu-shares")),
		directory("state").only(ownSandbox("its own file system; share a folder with [sandbox] writable")),
		directory("cache").only(ownSandbox("its own file system; share a folder with [sandbox] writable")),
		directory("logs").only(ownSandbox("its own file system; share a folder with [sandbox] writable")),
		directory("runtime").only(ownSandbox("its own file system; share a folder with [sandbox] writable")),
		key("start_timeout", duration(time.Millisecond, "infinity"), func(s *spec.Service) *time.Duration { return &s.StartTimeout }, 30*time.Second),
		key("stop_timeout", duration(time.Millisecond, "infinity"), func(s *spec.Service) *time.Duration { return &s.StopTimeout }, 10*time.Second),
		key("stop_signal", signal, func(s *spec.Service) *syscall.Signal { return &s.StopSignal }, syscall.SIGTERM),
		key("notify", boolean, func(s *spec.Service) *bool { return &s.Notify }, false),
		key("watchdog", duration(spec.ShortestWatchdog, "never"), func(s *spec.Service) *time.Duration { return &s.Watchdog }, 0).only(withoutAccept).only(withBeginning),
		key("file_descriptor_store_max", number[int](0, mostStored), func(s *spec.Service) *int { return &s.StoreMax }, 0).only(withoutAccept),
		key("restart_delay", duration(0, ""), func(s *spec.Service) *time.Duration { return &s.RestartDelay }, 100*time.Millisecond),
		key("restart_max_delay", duration(0, ""), func(s *spec.Service) *time.Duration { return &s.RestartMaxDelay }, 30*time.Second),
		key("hold", duration(time.Millisecond, "infinity"), func(s *spec.Service) *time.Duration { return &s.Hold }, 10*time.Second),
		key("idle_timeout", duration(time.Millisecond, "never"), func(s *spec.Service) *time.Duration { return &s.IdleTimeout }, 0).only(withoutAccept),
		key("warm", boolean, func(s *spec.Service) *bool { return &s.Warm }, true).only(ownSandbox("an engine, which makes everything when a client comes")),
		key("syslog", boolean, func(s *spec.Service) *bool { return &s.Syslog }, false).only(ownSandbox("its own /dev; a program in it logs to stderr")),
		key("stdout", output, func(s *spec.Service) *string { return &s.Stdout }, "log").only(ownStdout),
		key("stderr", output, func(s *spec.Service) *string { return &s.Stderr }, "log"),
	}
})

var sandboxKeys = sync.OnceValue(func() []field[spec.Service] {
	return []field[spec.Service]{
		key("network", network, func(s *spec.Service) *string { return &s.Sandbox.Network }, "none"),
		key("seal", choice("required", "best-effort", "off"), func(s *spec.Service) *string { return &s.Seal }, "required").only(ownNetwork),
		key("connect", choice("none", "unix", "any"), func(s *spec.Service) *string { return &s.Sandbox.Connect }, "none"),
		key("root", hostPath, func(s *spec.Service) *string { return &s.Sandbox.Root }, "").without("the host's /usr, /bin, /sbin, /lib*, /etc and the program").only(ownSandbox("an image")),
		key("read_only", list(mount), func(s *spec.Service) *[]spec.Mount { return &s.Sandbox.ReadOnly }, nil),
		key("writable", list(mount), func(s *spec.Service) *[]spec.Mount { return &s.Sandbox.Writable }, nil),
		key("tmpfs", list(mountPoint), func(s *spec.Service) *[]string { return &s.Sandbox.Tmpfs }, nil),
		key("users", distinct(account), func(s *spec.Service) *[]string { return &s.Sandbox.Users }, nil).only(ownSandbox("options, as podman(1) has them: --uidmap")),
		key("groups", distinct(account), func(s *spec.Service) *[]string { return &s.Sandbox.Groups }, nil).only(ownSandbox("options, as podman(1) has them: --gidmap")),
		key("capabilities", distinct(capability), func(s *spec.Service) *[]string { return &s.Sandbox.Capabilities }, nil),
		key("syscalls", choice("default", "any"), func(s *spec.Service) *string { return &s.Sandbox.Syscalls }, "default").only(ownSandbox("its own profile of system calls; write --security-opt seccomp=... into options")),
		key("no_new_privileges", inverted, func(s *spec.Service) *bool { return &s.Sandbox.NewPrivs }, false),
		key("init", boolean, func(s *spec.Service) *bool { return &s.Sandbox.Init }, false),
	}
})

// containerKeys are for services that have a Container.
var containerKeys = sync.OnceValue(func() []field[spec.Service] {
	return []field[spec.Service]{
		key("engine", choice("podman"), func(s *spec.Service) *string { return &s.Container.Engine }, "podman"),
		key("image", filled, func(s *spec.Service) *string { return &s.Container.Image }, ""),
		key("options", list(text), func(s *spec.Service) *[]string { return &s.Container.Options }, nil),
		key("command", list(argument), func(s *spec.Service) *[]string { return &s.Container.Command }, nil),
		key("internet_sockets", boolean, func(s *spec.Service) *bool { return &s.Container.Internet }, false).only(noNetwork),
	}
})
