package process

import (
	"encoding/binary"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"activator/internal/fdpass"
	"activator/internal/process/vfork"
	"activator/internal/sandbox"
	"activator/internal/spec"
)

// steps is the call list of a process, from its clone to its execve.
type steps struct {
	*vfork.CallList
	told    [2]vfork.Call // by which we hear of a failure, at control
	control int           // the child's end of the conversation
	root    func() string // where its / is, once it is there
	cookie  vfork.Buffer  // SO_NETNS_COOKIE
	cell    uintptr       // a byte for words
	environ vfork.Buffer  // pointers, for envp
	execs   []vfork.Call  // any of them may be the one that succeeds
	gone    vfork.Label   // nobody is there any more
}

// newSteps returns a call list that begins with its end, which any of its calls may come to.
func newSteps() (*steps, error) {
	list, err := vfork.New()
	if err != nil {
		return nil, &StageError{Step: "start", Errno: errnoOf(err)}
	}
	s := &steps{CallList: list}
	s.cell = s.NewBuffer(8).Address
	begin := s.Label()
	s.gone = s.Label()
	s.Jump(begin)
	s.OnFailure()
	s.tellFailure()
	s.Place(s.gone)
	s.Do(unix.SYS_EXIT_GROUP, exitStage)
	s.Place(begin)
	s.DefaultSignals()
	return s, nil
}

// step says what the calls that follow are about.
func (s *steps) step(step, path, cure string) {
	s.Explain(func(errno unix.Errno) error { return &StageError{Step: step, Path: path, Errno: errno, Cure: cure} })
}

// say sends a word; nobody hears it when the parent is gone.
func (s *steps) say(word byte) {
	text := s.Bytes([]byte{word})
	s.Do(unix.SYS_SENDTO, uintptr(s.control), text, 1, unix.MSG_NOSIGNAL, 0, 0).Failed(s.gone)
}

// hear waits for a word, for ever if it does not come. End of file is the end. The word
// stays where it is: taken out it would make room in the socket, of which our poller
// hears, on the processor that the program is about to have.
func (s *steps) hear() {
	s.Do(unix.SYS_RECVFROM, uintptr(s.control), s.cell, 1, unix.MSG_PEEK, 0, 0).Zero(s.gone).Failed(s.gone)
}

// arrive is the beginning. The child shares our table of descriptors, of which it
// takes a copy up to slot, where its end of the conversation is: so a start costs no
// more with 5,000 sockets than with one. Then it has the table to itself, with
// nothing in it but control.
func (s *steps) arrive(slot, control int) {
	s.step("start", "", "Linux 5.15 is needed")
	// Nothing else may happen to the table while it is ours.
	s.Do(unix.SYS_CLOSE_RANGE, uintptr(slot+1), uintptr(^uint32(0)), unix.CLOSE_RANGE_UNSHARE).Failed(s.gone)
	s.control = slot
	s.say(wordAlone)
	s.Explain(func(errno unix.Errno) error {
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

// receive takes descriptors, which get the lowest numbers, and is what the child waits
// in for the rest of its call list.
func (s *steps) receive() {
	header := s.message(s.cell, s.NewBuffer(fdpass.Space(fdpass.MaxFiles)))
	s.Do(unix.SYS_RECVMSG, uintptr(s.control), header, 0).Zero(s.gone).Failed(s.gone)
}

// receiveMore takes what did not come with the first message of count descriptors.
func (s *steps) receiveMore(count int) {
	for more := count - fdpass.MaxFiles; more > 0; more -= fdpass.MaxFiles {
		s.receive()
	}
	s.SetFree(count)
}

// message is a struct msghdr, for one byte and rights.
func (s *steps) message(data uintptr, rights vfork.Buffer) uintptr {
	iov := s.Words(data, 1)
	return s.Words(0, 0, iov.Address, 1, rights.Address, uintptr(len(rights.Bytes)), 0).Address
}

// become makes the child the service's user, and have a session of its own.
func (s *steps) become(b *birth) {
	s.step("start", "", "")
	s.Do(unix.SYS_SETSID)
	if b.id.change {
		s.step("user", b.id.name, "")
		s.Do(unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0, 0, 0)
		groups := make([]byte, 0, 4*len(b.id.groups))
		for _, gid := range b.id.groups {
			groups = binary.NativeEndian.AppendUint32(groups, uint32(gid))
		}
		s.Do(unix.SYS_SETGROUPS, uintptr(len(b.id.groups)), s.Bytes(groups))
		gid, uid := uintptr(b.id.gid), uintptr(b.id.uid)
		s.Do(unix.SYS_SETRESGID, gid, gid, gid)
		s.Do(unix.SYS_SETRESUID, uid, uid, uid)
		// The kernel has done that, unless fs.suid_dumpable is 1: the memory is ours.
		s.Do(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	}
	s.step("start", "", "")
	s.Do(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
	s.Do(unix.SYS_PRCTL, unix.PR_SET_NAME, s.Text(stageName), 0, 0, 0)
	if b.sandbox != nil {
		sandbox.Narrow(s.CallList, b.sandbox.Capabilities())
	}
}

// cureNotify [Examiner] tells too.
const cureNotify = "notify = true needs a /run that the service can write to"

// bindNotify gives our socket its name inside. A /run that the configuration
// mounts may still have the one of the start before.
func (s *steps) bindNotify(fd int) {
	s.step("notify", NotifyPath, cureNotify)
	address := s.Bytes(append(binary.NativeEndian.AppendUint16(nil, unix.AF_UNIX), NotifyPath+"\x00"...))
	size := uintptr(2 + len(NotifyPath) + 1)
	again, bound := s.Label(), s.Label()
	s.Do(unix.SYS_BIND, uintptr(fd), address, size).Zero(bound).Failed(again, unix.EADDRINUSE)
	s.Place(again)
	s.Do(unix.SYS_UNLINKAT, vfork.Here, s.Text(NotifyPath), 0).Ignore()
	s.Do(unix.SYS_BIND, uintptr(fd), address, size)
	s.Place(bound)
}

// confine puts up the walls, and hands us what we answer the program's calls with.
func (s *steps) confine(b *birth) error {
	// Under the filter this one would only seem to be set.
	for _, limit := range b.plan.Limits {
		if limit.Resource == "core" {
			if err := s.limit(limit); err != nil {
				return err
			}
		}
	}
	if b.sandbox.Listener {
		s.netnsCookie()
	}
	if listener := b.sandbox.Confine(s.CallList); listener >= 0 {
		s.handListener(listener)
	}
	return nil
}

// handListener hands us the descriptor on which a supervisor answers.
func (s *steps) handListener(listener int) {
	rights := s.NewBuffer(fdpass.Space(1))
	copy(rights.Bytes, fdpass.Rights(listener))
	s.step("supervisor", "", "")
	s.Do(unix.SYS_SENDMSG, uintptr(s.control), s.message(s.Bytes([]byte{wordWatch}), rights), unix.MSG_NOSIGNAL).Failed(s.gone)
	s.CloseFrom(listener)
}

// netnsCookie asks for the number of its network namespace, socket(7), which tells
// the sockets it makes from those it was handed.
func (s *steps) netnsCookie() {
	s.step("supervisor", "", "")
	s.cookie = s.NewBuffer(8)
	fd := s.Open(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	s.Do(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE, s.cookie.Address, s.Words(8).Address)
	s.CloseFrom(fd)
}

// await waits for the word to go and, where the client is handed over, for his socket.
func (s *steps) await(handed spec.Handed) {
	if handed != spec.LaterFD && handed != spec.LaterStdio {
		s.hear()
		return
	}
	s.step("hand", "", "")
	brought := s.Free()
	header := s.message(s.cell, s.NewBuffer(fdpass.Space(1)))
	s.Do(unix.SYS_RECVMSG, uintptr(s.control), header, 0).Zero(s.gone).Failed(s.gone)
	for _, place := range placesOf(handed) {
		s.Do(unix.SYS_DUP3, uintptr(brought), uintptr(place), 0)
	}
	s.Do(unix.SYS_CLOSE, uintptr(brought))
}

// enter is the rest of the way, of which there is nothing that a program could
// hinder. Order: limits when nothing else is done that they could hinder, and the
// sockets' marks when nothing else can be exec'ed.
func (s *steps) enter(p *plan) error {
	dir := p.Dir
	if dir == "" {
		dir = "/"
	}
	s.Explain(func(errno unix.Errno) error { return s.look(p).explainFolder(dir, errno) })
	s.Do(unix.SYS_CHDIR, s.Text(dir))
	s.Do(unix.SYS_UMASK, uintptr(p.Umask))
	for _, limit := range p.Limits {
		if err := s.limit(limit); err != nil {
			return err
		}
	}
	s.step("sockets", "", "")
	for fd := 3; fd < 3+p.Sockets; fd++ {
		s.Do(unix.SYS_FCNTL, uintptr(fd), unix.F_SETFD, 0)
	}
	s.exec(p)
	return nil
}

func (s *steps) limit(limit spec.Limit) error {
	number, err := resource(limit)
	if err != nil {
		return err
	}
	s.step("limit", limit.Resource, "")
	s.Do(unix.SYS_PRLIMIT64, 0, uintptr(number), s.Words(uintptr(limit.Soft), uintptr(limit.Hard)).Address, 0)
	return nil
}

// look is what the program would see.
func (s *steps) look(p *plan) inside { return inside{root: s.root(), dir: p.Dir} }

// exec is execve(2) of the program or, without a slash, of all it may be: PATH is of
// the root as it is then.
func (s *steps) exec(p *plan) {
	argv := s.Words(s.Texts(p.Argv)...)
	s.environ = s.NewBuffer(8 * (len(p.Env) + spareEnv))
	names := candidates(p.Argv[0], p.Env)
	for _, name := range names {
		s.Explain(func(errno unix.Errno) error { return s.look(p).explain(name, errno) })
		call := s.Do(unix.SYS_EXECVE, s.Text(name), argv.Address, s.environ.Address)
		if name != p.Argv[0] {
			call.Ignore(unix.ENOENT, unix.ENOTDIR, unix.EACCES)
		}
		s.execs = append(s.execs, call)
	}
	if len(names) != 1 || names[0] != p.Argv[0] {
		s.Explain(func(unix.Errno) error { return s.look(p).notFound(p.Argv[0], p.Env) })
		s.Fail()
	}
}

// spareEnv is room for what is not known before, and for the end.
const spareEnv = 64

// tell completes the environment.
func (s *steps) tell(env []string) error {
	if 8*(len(env)+1) > len(s.environ.Bytes) {
		return &StageError{Step: "exec", Errno: unix.E2BIG, Cure: "arguments and environment are too long"}
	}
	s.environ.SetWords(s.Texts(env)...)
	return s.Err()
}

// execed reports whether the child has come to its execve.
func (s *steps) execed() bool {
	for _, call := range s.execs {
		if s.At(call) {
			return true
		}
	}
	return false
}

// tellFailure is what follows when a call has failed: we are told, and may look around
// inside until we let it end.
func (s *steps) tellFailure() {
	text := s.Bytes([]byte{wordError})
	s.told[0] = s.Do(unix.SYS_SENDTO, 0, text, 1, unix.MSG_NOSIGNAL, 0, 0).Ignore()
	more := s.Label()
	s.Place(more)
	s.told[1] = s.Do(unix.SYS_READ, 0, s.cell, 1).Positive(more).Ignore() // words are not heard any more
}

// moveControl says that control has this number from now on.
func (s *steps) moveControl(control int) {
	s.control = control
	for _, call := range s.told {
		call.SetArg(0, uintptr(control))
	}
}

// stage is execve of the activator's own binary, which stays as a reaper.
func (s *steps) stage() {
	const self = "/proc/self/exe"
	s.step("init", self, "the reaper is the activator's own binary, which must start inside: build it static, with CGO_ENABLED=0")
	argv := s.Words(s.Texts([]string{stageName, strconv.Itoa(s.control)})...)
	env := s.Words(s.Texts(stageEnv())...)
	s.Do(unix.SYS_FCNTL, uintptr(s.control), unix.F_SETFD, 0)
	s.execs = append(s.execs, s.Do(unix.SYS_EXECVE, s.Text(self), argv.Address, env.Address))
}

// stageEnv is the environment of the activator's own processes, not the program's.
// They do little, on one thread: no garbage collection, and no second processor,
// which costs the runtime 0.2 ms to set up.
func stageEnv() []string {
	env := []string{"GOGC=off", "GOMAXPROCS=1"}
	if race, ok := os.LookupEnv("GORACE"); ok {
		env = append(env, "GORACE="+race)
	}
	return env
}
