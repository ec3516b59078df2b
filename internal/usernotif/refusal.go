package usernotif

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockopt"
	"activator/internal/spec"
)

// mostTold bounds what is told of one program, for each call.
const mostTold = 4

// answerObserved answers a call of a program that is observed as its filter would, and tells of it if
// that is a refusal. False: the filter would ask.
func (s *Supervisor) answerObserved(n notification) (v verdict, decided bool) {
	r := s.policy.Refusal(uint32(n.Nr), n.Arch, n.Args)
	if c, ok := pathCalls[r.Call]; ok && r.Errno == 0 {
		s.lookAtPath(n, c)
		return verdict{pass: true}, !r.Asked
	}
	if more := len(s.told[n.Nr]) < mostTold; more && r.Errno != 0 {
		s.tellRefusal(n, r)
	} else if n.Nr == unix.SYS_BIND {
		to, ok := s.copyName(n)
		if ok && strings.HasPrefix(to.path, "/") { // it makes a node there
			s.lookAtName(n, path.Clean(to.path), spec.Make)
		}
		if ok && more {
			s.tellBind(n, to)
		}
	}
	return verdict{errno: r.Errno, pass: r.Errno == 0}, !r.Asked
}

// tell tells something once. line opens it; "": none does.
func (s *Supervisor) tell(n notification, line, text string) {
	s.tellFinding(n, spec.Finding{Text: text, Line: line})
}

func (s *Supervisor) tellFinding(n notification, f spec.Finding) {
	if s.policy.Tell != nil && len(s.told[n.Nr]) < mostTold && !slices.Contains(s.told[n.Nr], f.Text) {
		s.told[n.Nr] = append(s.told[n.Nr], f.Text)
		s.policy.Tell(f)
	}
}

func (s *Supervisor) tellRefusal(n notification, r spec.Refusal) {
	what := r.Call + "(2)"
	switch n.Nr {
	case unix.SYS_CONNECT:
		s.tellConnect(n, r)
		return
	case unix.SYS_SOCKET, unix.SYS_SOCKETPAIR:
		what = fmt.Sprintf("a socket of family %s, type %d, protocol %d", nameFamily(n.Args[0]), n.Args[1]&0xf, int32(n.Args[2]))
	case sockopt.SetCall:
		what = fmt.Sprintf("the option %s of a socket", nameOption(n.Args[1], n.Args[2]))
	case unix.SYS_IOCTL:
		what = fmt.Sprintf("ioctl(2) %#x", uint32(n.Args[1]))
	case unix.SYS_PRCTL, unix.SYS_PERSONALITY:
		what = fmt.Sprintf("%s(2) %d", r.Call, int32(n.Args[0]))
	}
	cure := ""
	switch {
	case r.Key == sealLine:
		cure = ": if it cannot do without, write handover = \"proxy\" below [service], so that it has no socket of the host's, or " + r.Key + " below [sandbox]"
	case r.Key != "":
		cure = ": if it cannot do without, write " + r.Key + " below [sandbox]"
	}
	s.tell(n, r.Key, fmt.Sprintf("was refused %s (%s)%s", what, unix.ErrnoName(r.Errno), cure))
}

// sealLine opens what no program with a socket of the host's may.
const sealLine = `seal = "off"`

// optional are sockets of the host's that programs try, and do without; a slash: all in that folder.
var optional = []string{"/run/nscd/", "/run/systemd/", "/run/dbus/system_bus_socket", "/run/avahi-daemon/", "/var/lib/sss/"}

func (s *Supervisor) tellConnect(n notification, r spec.Refusal) {
	const anyLine, unixLine = `connect = "any"`, `connect = "unix"`
	to, ok := s.copyName(n)
	errno := unix.ErrnoName(r.Errno)
	switch at := cleanPath(to.path); {
	case !ok, slices.ContainsFunc(optional, func(o string) bool { return strings.HasPrefix(at, o) }):
	case to.kind == unix.SOCK_DGRAM && to.ip.IsUnspecified(): // getaddrinfo(3) sorts what to bind, RFC 6724
	case at == "" && s.policy.Own:
		line := ""
		if to.ip.IsLoopback() {
			line = anyLine
		}
		s.tell(n, line, fmt.Sprintf("was refused to connect to %s (%s): %s below [sandbox] lets it connect in its own network, which has nothing but lo, "+
			"and network = \"netns:NAME\" gives it another one", to, errno, anyLine))
	case at == "":
		s.tell(n, anyLine, fmt.Sprintf("was refused to connect to %s (%s): write %s below [sandbox] if it cannot do without", to, errno, anyLine))
	case at == "/dev/log":
		s.tell(n, spec.SyslogLine, "was refused to connect to /dev/log, syslog(3): write "+spec.SyslogLine+" below [service], or have it log to stderr")
	case strings.HasPrefix(at, "@"):
		s.tell(n, unixLine, fmt.Sprintf("was refused to connect to %s (%s): write %s below [sandbox] if it is a socket of the program's own", to, errno, unixLine))
	default:
		s.tell(n, unixLine, fmt.Sprintf("was refused to connect to %s (%s): write %s below [sandbox], and read_only = [%q] if it is a socket of the host's",
			to, errno, unixLine, path.Dir(to.path)))
	}
}

// tellBind tells of a program that binds what no client reaches, and maybe does not take the sockets that it was given.
func (s *Supervisor) tellBind(n notification, to name) {
	if !s.policy.Own || len(s.targets) > 0 {
		return // the targets are told of by [Supervisor.giveTarget]
	}
	if len(s.policy.Handed) == 0 {
		s.noteBound(n, to, -1)
	}
	i := slices.IndexFunc(s.policy.Handed, func(socket spec.Socket) bool {
		return socket.Address.Type() == to.kind && (socket.Address.Path == "") == (to.path == "")
	})
	if i < 0 {
		return
	}
	bound, _ := spec.ParseAddress(to.String())
	s.tellFinding(n, spec.Finding{Bound: bound, Text: fmt.Sprintf("binds %s itself, in its own network, where no client comes: if it does not use the sockets that it is given by LISTEN_FDS, "+
		"write handover = \"bind\" below [service], and target = %q below the [[socket]] of %s", to, s.policy.Handed[i].Address.FindTarget(bound).String(), s.policy.Handed[i].Address)})
}

// copyName copies the address that a call of connect or bind is about. Nothing is answered by it.
func (s *Supervisor) copyName(n notification) (name, bool) {
	fd, err := takeDescriptor(n.PID, int(int32(n.Args[0])))
	if err != nil {
		return name{}, false
	}
	defer func() { _ = unix.Close(fd) }()
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return name{}, false
	}
	sockaddr, err := copyAddress(n.PID, n.Args[1], uint64(uint32(n.Args[2])))
	if err != nil || !s.isValid(n.ID) {
		return name{}, false
	}
	kind, ok := isLikeTarget(fd, domain)
	if !ok {
		return name{}, false
	}
	to, ok := parseName(domain, kind, false, sockaddr)
	return to.makeAbsolute(func() string { return workingDirectory(n.PID) }), ok
}

// families are the names of the address families that programs try, socket(2).
var families = map[uint32]string{unix.AF_UNIX: "AF_UNIX", unix.AF_INET: "AF_INET", unix.AF_INET6: "AF_INET6", unix.AF_NETLINK: "AF_NETLINK", unix.AF_PACKET: "AF_PACKET",
	unix.AF_ALG: "AF_ALG", unix.AF_VSOCK: "AF_VSOCK", unix.AF_BLUETOOTH: "AF_BLUETOOTH", unix.AF_CAN: "AF_CAN", unix.AF_TIPC: "AF_TIPC",
	unix.AF_KEY: "AF_KEY", unix.AF_RDS: "AF_RDS", unix.AF_XDP: "AF_XDP", unix.AF_QIPCRTR: "AF_QIPCRTR"}

func nameFamily(family uint64) string {
	if text, ok := families[uint32(family)]; ok {
		return text
	}
	return fmt.Sprint(uint32(family))
}

// nameOption is the name of an option, where the table has it.
func nameOption(level, number uint64) string {
	for _, o := range sockopt.Table {
		if uint32(o.Level) == uint32(level) && uint32(o.Name) == uint32(number) {
			return o.Text
		}
	}
	return fmt.Sprintf("%d of level %d", int32(number), int32(level))
}
