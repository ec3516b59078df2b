package process

import (
	"encoding/binary"
	"strconv"

	"golang.org/x/sys/unix"

	"activator/internal/fdpass"
	"activator/internal/process/program"
	"activator/internal/process/vfork"
	"activator/internal/sandbox"
	"activator/internal/spec"
)

// callList is the call list of a process, from its clone to its execve.
type callList struct {
	*vfork.CallList
	failureCalls [2]vfork.Call // by which we hear of a failure, at control
	control      int           // the child's end of the conversation
	root         func() string // where its / is, once it is there
	cookie       vfork.Buffer  // SO_NETNS_COOKIE
	byteBuffer   uintptr       // a byte of a message
	environ      vfork.Buffer  // pointers, for envp
	execs        []vfork.Call  // any of them may be the one that succeeds
	exit         vfork.Label   // the parent is gone
}

// newCallList returns a call list that begins with its end, which any of its calls may come to.
func newCallList() (*callList, error) {
	list, err := vfork.New()
	if err != nil {
		return nil, &StepError{Step: "start", Errno: errnoOf(err)}
	}
	s := &callList{CallList: list}
	s.byteBuffer = s.NewBuffer(8).Address
	begin := s.NewLabel()
	s.exit = s.NewLabel()
	s.JumpTo(begin)
	s.OnFailure()
	s.reportFailure()
	s.PlaceLabel(s.exit)
	s.Do(unix.SYS_EXIT_GROUP, exitFailed)
	s.PlaceLabel(begin)
	s.DefaultSignals()
	return s, nil
}

// setStep says what the calls that follow are about.
func (s *callList) setStep(step, path, cure string) {
	s.ExplainNext(func(errno unix.Errno) error { return &StepError{Step: step, Path: path, Errno: errno, Cure: cure} })
}

// sendMessage sends a message; it is lost when the parent is gone.
func (s *callList) sendMessage(word byte) {
	text := s.AddBytes([]byte{word})
	s.Do(unix.SYS_SENDTO, uintptr(s.control), text, 1, unix.MSG_NOSIGNAL, 0, 0).OnError(s.exit)
}

// awaitMessage waits for a message, without a limit of time. End of file is the end. The message
// stays where it is: taken out it would make room in the socket, of which our poller
// hears, on the processor that the program is about to have.
func (s *callList) awaitMessage() {
	s.Do(unix.SYS_RECVFROM, uintptr(s.control), s.byteBuffer, 1, unix.MSG_PEEK, 0, 0).OnZero(s.exit).OnError(s.exit)
}

// separate is the beginning. The child shares our table of descriptors, of which it
// takes a copy up to slot, where its end of the conversation is: so a start costs no
// more with 5,000 sockets than with one. Then it has the table to itself, with
// nothing in it but control.
func (s *callList) separate(slot, control int) {
	s.setStep("start", "", "Linux 5.15 is needed")
	// Nothing else may happen to the table while it is ours.
	s.Do(unix.SYS_CLOSE_RANGE, uintptr(slot+1), uintptr(^uint32(0)), unix.CLOSE_RANGE_UNSHARE).OnError(s.exit)
	s.control = slot
	s.sendMessage(msgSeparate)
	s.ExplainNext(func(errno unix.Errno) error {
		if errno == unix.EBADF { // of a number above the limit, dup(2)
			errno = unix.EMFILE
		}
		return sandbox.OpenError("dup3 to descriptor "+strconv.Itoa(control), "", errno)
	})
	if slot != control {
		s.Do(unix.SYS_DUP3, uintptr(slot), uintptr(control), unix.O_CLOEXEC)
	}
	s.moveControl(control)
	s.Do(unix.SYS_CLOSE_RANGE, 0, uintptr(control-1), 0)
	s.Do(unix.SYS_CLOSE_RANGE, uintptr(control+1), uintptr(^uint32(0)), 0)
}

// receiveDescriptors takes descriptors, which get the lowest numbers, and is what the child waits
// in for the rest of its call list.
func (s *callList) receiveDescriptors() {
	header := s.newMessage(s.byteBuffer, s.NewBuffer(fdpass.RightsSpace(fdpass.MaxFiles)))
	s.Do(unix.SYS_RECVMSG, uintptr(s.control), header, 0).OnZero(s.exit).OnError(s.exit)
}

// receiveMore takes what did not come with the first message of count descriptors.
func (s *callList) receiveMore(count int) {
	for more := count - fdpass.MaxFiles; more > 0; more -= fdpass.MaxFiles {
		s.receiveDescriptors()
	}
	s.SetNextDescriptor(count)
}

// newMessage is a struct msghdr, for one byte and rights.
func (s *callList) newMessage(data uintptr, rights vfork.Buffer) uintptr {
	iov := s.AddWords(data, 1)
	return s.AddWords(0, 0, iov.Address, 1, rights.Address, uintptr(len(rights.Bytes)), 0).Address
}

// changeUser makes the child the service's user, and have a session of its own.
func (s *callList) changeUser(id identity, plan *sandbox.Plan) {
	s.setStep("start", "", "")
	s.Do(unix.SYS_SETSID)
	if id.change {
		s.setStep("user", id.name, "")
		s.Do(unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0, 0, 0)
		groups := make([]byte, 0, 4*len(id.groups))
		for _, gid := range id.groups {
			groups = binary.NativeEndian.AppendUint32(groups, uint32(gid))
		}
		s.Do(unix.SYS_SETGROUPS, uintptr(len(id.groups)), s.AddBytes(groups))
		gid, uid := uintptr(id.gid), uintptr(id.uid)
		s.Do(unix.SYS_SETRESGID, gid, gid, gid)
		s.Do(unix.SYS_SETRESUID, uid, uid, uid)
		// The kernel has done that, unless fs.suid_dumpable is 1: the memory is ours.
		s.Do(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	}
	s.setStep("start", "", "")
	s.Do(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
	s.Do(unix.SYS_PRCTL, unix.PR_SET_NAME, s.AddText(childName), 0, 0, 0)
	if plan != nil {
		sandbox.NarrowCapabilities(s.CallList, plan.Capabilities())
	}
}

// bindReport gives a socket of ours its name inside. A /run that the configuration
// mounts may still have the one of the start before.
func (s *callList) bindReport(fd int, p purpose) {
	s.setStep(p.step, p.inside, p.cure)
	address := s.AddBytes(append(binary.NativeEndian.AppendUint16(nil, unix.AF_UNIX), p.inside+"\x00"...))
	size := uintptr(2 + len(p.inside) + 1)
	again, bound := s.NewLabel(), s.NewLabel()
	s.Do(unix.SYS_BIND, uintptr(fd), address, size).OnZero(bound).OnError(again, unix.EADDRINUSE)
	s.PlaceLabel(again)
	s.Do(unix.SYS_UNLINKAT, vfork.WorkingDirectory, s.AddText(p.inside), 0).IgnoreErrors()
	s.Do(unix.SYS_BIND, uintptr(fd), address, size)
	s.PlaceLabel(bound)
}

// addRestrictions restricts the child, and sends us the listener of its filter.
func (s *callList) addRestrictions(plan *sandbox.Plan, limits []spec.Limit) error {
	// Under the filter this one would only seem to be set.
	for _, limit := range limits {
		if limit.Resource == "core" {
			if err := s.setLimit(limit); err != nil {
				return err
			}
		}
	}
	if plan.Listener {
		s.netnsCookie()
	}
	if listener := plan.Confine(s.CallList); listener >= 0 {
		s.sendListener(listener)
	}
	return nil
}

// sendListener sends us the descriptor on which a supervisor answers.
func (s *callList) sendListener(listener int) {
	rights := s.NewBuffer(fdpass.RightsSpace(1))
	copy(rights.Bytes, fdpass.EncodeRights(listener))
	s.setStep("supervisor", "", "")
	s.Do(unix.SYS_SENDMSG, uintptr(s.control), s.newMessage(s.AddBytes([]byte{msgListener}), rights), unix.MSG_NOSIGNAL).OnError(s.exit)
	s.CloseFrom(listener)
}

// netnsCookie asks for the number of its network namespace, socket(7), which tells
// the sockets it makes from those it was given.
func (s *callList) netnsCookie() {
	s.setStep("supervisor", "", "")
	s.cookie = s.NewBuffer(8)
	fd := s.Open(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	s.Do(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE, s.cookie.Address, s.AddWords(8).Address)
	s.CloseFrom(fd)
}

// awaitRelease waits for msgGo and, where it comes with that, for the client's socket.
func (s *callList) awaitRelease(handed spec.Handed) {
	if handed != spec.LaterFD && handed != spec.LaterStdio {
		s.awaitMessage()
		return
	}
	s.setStep("hand", "", "")
	brought := s.NextDescriptor()
	header := s.newMessage(s.byteBuffer, s.NewBuffer(fdpass.RightsSpace(1)))
	s.Do(unix.SYS_RECVMSG, uintptr(s.control), header, 0).OnZero(s.exit).OnError(s.exit)
	for _, place := range placesOf(handed) {
		s.Do(unix.SYS_DUP3, uintptr(brought), uintptr(place), 0)
	}
	s.Do(unix.SYS_CLOSE, uintptr(brought))
}

// execProgram is the rest of the way, of which there is nothing that a program could
// hinder. Order: limits when nothing else is done that they could hinder, and the
// sockets' marks when nothing else can be exec'ed.
func (s *callList) execProgram(p *plan) error {
	dir := p.Dir
	if dir == "" {
		dir = "/"
	}
	s.ExplainNext(func(errno unix.Errno) error { return s.viewOf(p).ExplainFolder(dir, errno) })
	s.Do(unix.SYS_CHDIR, s.AddText(dir))
	s.Do(unix.SYS_UMASK, uintptr(p.Umask))
	for _, limit := range p.Limits {
		if err := s.setLimit(limit); err != nil {
			return err
		}
	}
	s.setStep("sockets", "", "")
	for fd := 3; fd < 3+p.Sockets; fd++ {
		s.Do(unix.SYS_FCNTL, uintptr(fd), unix.F_SETFD, 0)
	}
	s.addExecs(p)
	return nil
}

func (s *callList) setLimit(limit spec.Limit) error {
	number, err := resourceNumber(limit)
	if err != nil {
		return err
	}
	s.setStep("limit", limit.Resource, "")
	s.Do(unix.SYS_PRLIMIT64, 0, uintptr(number), s.AddWords(uintptr(limit.Soft), uintptr(limit.Hard)).Address, 0)
	return nil
}

// viewOf is what the program would see.
func (s *callList) viewOf(p *plan) program.Root { return program.Root{Path: s.root(), Dir: p.Dir} }

// addExecs is execve(2) of the program or, without a slash, of all it may be: PATH is of
// the root as it is then.
func (s *callList) addExecs(p *plan) {
	argv := s.AddWords(s.AddTexts(p.Argv)...)
	s.environ = s.NewBuffer(8 * (len(p.Env) + moreEnvironment))
	names := program.ListCandidates(p.Argv[0], p.Env)
	for _, name := range names {
		s.ExplainNext(func(errno unix.Errno) error { return s.viewOf(p).ExplainExec(name, errno) })
		call := s.Do(unix.SYS_EXECVE, s.AddText(name), argv.Address, s.environ.Address)
		if name != p.Argv[0] {
			call.IgnoreErrors(unix.ENOENT, unix.ENOTDIR, unix.EACCES)
		}
		s.execs = append(s.execs, call)
	}
	if len(names) != 1 || names[0] != p.Argv[0] {
		s.ExplainNext(func(unix.Errno) error { return s.viewOf(p).ExplainNotFound(p.Argv[0], p.Env) })
		s.FailAlways()
	}
}

// moreEnvironment is room for what is not known before, and for the end.
const moreEnvironment = 64

// writeEnv completes the environment.
func (s *callList) writeEnv(env []string) error {
	if 8*(len(env)+1) > len(s.environ.Bytes) {
		return &StepError{Step: "exec", Errno: unix.E2BIG, Cure: "arguments and environment are too long"}
	}
	s.environ.SetWords(s.AddTexts(env)...)
	return s.Err()
}

// hasExeced reports whether the child has come to its execve.
func (s *callList) hasExeced() bool {
	for _, call := range s.execs {
		if s.IsAt(call) {
			return true
		}
	}
	return false
}

// reportFailure is what follows when a call has failed: a message to us. The child stays until
// we close our end, so that we can look at its root.
func (s *callList) reportFailure() {
	text := s.AddBytes([]byte{msgError})
	s.failureCalls[0] = s.Do(unix.SYS_SENDTO, 0, text, 1, unix.MSG_NOSIGNAL, 0, 0).IgnoreErrors()
	more := s.NewLabel()
	s.PlaceLabel(more)
	s.failureCalls[1] = s.Do(unix.SYS_READ, 0, s.byteBuffer, 1).OnPositive(more).IgnoreErrors() // messages are not looked at any more
}

// moveControl says that control has this number from now on.
func (s *callList) moveControl(control int) {
	s.control = control
	for _, call := range s.failureCalls {
		call.SetArg(0, uintptr(control))
	}
}

// execReaper is execve of the activator's own binary, which stays as a reaper.
func (s *callList) execReaper() {
	const self = "/proc/self/exe"
	s.setStep("init", self, "the reaper is the activator's own binary, which must start inside: build it static, with CGO_ENABLED=0")
	argv := s.AddWords(s.AddTexts([]string{childName, strconv.Itoa(s.control)})...)
	env := s.AddWords(s.AddTexts(helperEnv())...)
	s.Do(unix.SYS_FCNTL, uintptr(s.control), unix.F_SETFD, 0)
	s.execs = append(s.execs, s.Do(unix.SYS_EXECVE, s.AddText(self), argv.Address, env.Address))
}
