package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"activator/test/escape/wire"

	"golang.org/x/sys/unix"
)

// What can be done to processes, and by being one.
func processProbes() []probe {
	const secret = "the secret of a process of the host read"
	const alive = "still there three seconds after the starter got SIGKILL"
	var all []probe
	add := func(name, tries, means, witness string, run func(*mission) (string, error)) {
		all = append(all, probe{wire.Probe{Name: name, Group: "processes", Tries: tries, Means: means, Witness: witness}, run})
	}
	add("see-processes", "/proc/N/cmdline of a process of the host", secret, wire.WitnessSecret, seeProcess)
	add("signal", "kill() by its pid", "it gets a signal", wire.WitnessHost, signalProcess)
	add("ptrace", "PTRACE_SEIZE and PTRACE_PEEKDATA by its pid", secret, wire.WitnessSecret, traceProcess)
	add("memory-of-process", "process_vm_readv() by its pid", secret, wire.WitnessSecret, memoryOfProcess)
	add("pidfd-getfd", "pidfd_open() and pidfd_getfd() by its pid", secret, wire.WitnessSecret, getfdOfProcess)
	addHandleProbes(add)
	addSharedProbes(add)
	add("keyring", "a key of the starter's session keyring searched and read", "the key's payload read", wire.WitnessSecret, readKey)
	add("tiocsti", "TIOCSTI on an inherited terminal", "the terminal's next reader gets what we typed", wire.WitnessHost, typeAhead(0))
	add("tiocsti-high-bits", "the same with bits above the 32 that the kernel looks at", "the terminal's next reader gets what we typed", wire.WitnessHost, typeAhead(highBit))
	add("outlive-child", "PR_SET_PDEATHSIG 0 and a child in a session of its own", alive, wire.WitnessHost, outliveChild)
	add("outlive-exec", "execve() by another thread than the first: the death signal is the thread's", alive, wire.WitnessHost, outliveExec)
	add("core-dump", "RLIMIT_CORE raised, or lowered to 0, where a program of the host gets the core nevertheless; PR_SET_DUMPABLE", "a crash would write the core, or feed it to a program of the host", wire.WitnessKernel, coreDump)
	return all
}

// target has the harness show a process of the host: its pid, the address of its
// secret and a descriptor of a file with it.
func (m *mission) target() (pid int, where []string, err error) {
	answer, err := m.ask("victim", "")
	if err != nil {
		return 0, nil, err
	}
	where = strings.Fields(answer)
	if len(where) != 3 {
		return 0, nil, errors.New("no victim: " + answer)
	}
	pid, err = strconv.Atoi(where[0])
	return pid, where, err
}

func seeProcess(m *mission) (string, error) {
	pid, _, err := m.target()
	if err != nil {
		return "", err
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/cmdline", pid), unix.O_RDONLY, 0)
	if err != nil {
		return "", at("open /proc/PID/cmdline", err)
	}
	text := make([]byte, 4096)
	n, err := unix.Read(fd, text)
	if err != nil {
		return "", at("read", err)
	}
	words := bytes.Split(bytes.TrimRight(text[:n], "\x00"), []byte{0})
	m.proof = string(words[len(words)-1])
	return "saw a process of the host", nil
}

func signalProcess(m *mission) (string, error) {
	pid, _, err := m.target()
	if err != nil {
		return "", err
	}
	return "sent a signal", at("kill", unix.Kill(pid, unix.SIGUSR1))
}

func traceProcess(m *mission) (string, error) {
	pid, where, err := m.target()
	if err != nil {
		return "", err
	}
	address, err := strconv.ParseUint(where[1], 0, 64)
	if err != nil {
		return "", err
	}
	const interrupt = 0x4207
	if err := call(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, 0); err != nil {
		return "", at("ptrace PTRACE_SEIZE", err)
	}
	if err := call(unix.SYS_PTRACE, interrupt, uintptr(pid), 0, 0); err != nil {
		return "", at("ptrace PTRACE_INTERRUPT", err)
	}
	if _, err := unix.Wait4(pid, nil, unix.WALL, nil); err != nil {
		return "", at("wait4", err)
	}
	text := make([]byte, secretSize)
	_, err = unix.PtracePeekData(pid, uintptr(address), text)
	m.proof = string(text)
	return "traced a process of the host", errors.Join(at("ptrace PTRACE_PEEKDATA", err), at("ptrace PTRACE_DETACH", unix.PtraceDetach(pid)))
}

func memoryOfProcess(m *mission) (string, error) {
	pid, where, err := m.target()
	if err != nil {
		return "", err
	}
	return m.readMemory(pid, where[1])
}

func getfdOfProcess(m *mission) (string, error) {
	pid, where, err := m.target()
	if err != nil {
		return "", err
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return "", at("pidfd_open", err)
	}
	number, err := strconv.Atoi(where[2])
	if err != nil {
		return "", err
	}
	fd, err := unix.PidfdGetfd(pidfd, number, 0)
	if err != nil {
		return "", at("pidfd_getfd", err)
	}
	return "took a descriptor from a process of the host", m.readSecret(fd)
}

// victim is a process of the host that does no harm. It has a secret
// in its memory, in a file that it has open (its last argument's path) and on its
// command line. It connects where it is told to, and says when it gets a signal.
func victim() {
	path, secret := os.Args[2], []byte(os.Args[3])
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		fmt.Println("error", err)
		return
	}
	const anybody = ^uintptr(0) // as if there were no Yama
	_ = unix.Prctl(unix.PR_SET_PTRACER, anybody, 0, 0, 0)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGUSR1)
	go func() {
		for range signals {
			fmt.Println("signal")
		}
	}()
	fmt.Println(os.Getpid(), fmt.Sprintf("%#x", uintptr(unsafe.Pointer(&secret[0]))), fd)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Connect(s, &unix.SockaddrUnix{Name: in.Text()})
		}
		fmt.Println("connected", err)
	}
	runtime.KeepAlive(secret)
}

// withKey puts a key into a new session keyring and becomes another program.
func withKey(args []string) {
	runtime.LockOSThread()
	err := call(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0) // the wrapper knows no anonymous keyring
	if err == nil {
		_, err = unix.AddKey("user", args[0], []byte(args[1]), unix.KEY_SPEC_SESSION_KEYRING)
	}
	if err == nil {
		err = unix.Exec(args[2], args[2:], os.Environ())
	}
	fmt.Fprintln(os.Stderr, "with-key:", err)
	os.Exit(1)
}

func readKey(m *mission) (string, error) {
	key, err := unix.KeyctlSearch(unix.KEY_SPEC_SESSION_KEYRING, "user", m.Key, 0)
	if err != nil {
		return "", at("keyctl KEYCTL_SEARCH", err)
	}
	text := make([]byte, 256)
	n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, key, text, 0)
	if err != nil {
		return "", at("keyctl KEYCTL_READ", err)
	}
	m.proof = string(text[:n])
	return "read a key of the starter", nil
}

func typeAhead(bits uintptr) func(*mission) (string, error) {
	return func(m *mission) (string, error) {
		for _, c := range []byte(m.Nonce + "\n") {
			if err := call(unix.SYS_IOCTL, 1, unix.TIOCSTI|bits, uintptr(unsafe.Pointer(&c))); err != nil {
				return "", at("ioctl TIOCSTI", err)
			}
		}
		_, err := m.ask("typed", "") // the terminal is hung up when we and the starter are gone
		return "typed into the terminal", err
	}
}

// outliveChild leaves a child that holds the connection to the harness, and goes
// on to be killed with the starter itself.
func outliveChild(m *mission) (string, error) {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0); err != nil {
		return "", at("prctl", err)
	}
	_, err := syscall.ForkExec("/proc/self/exe", []string{"intruder", "survivor"}, &syscall.ProcAttr{
		Files: []uintptr{0, 1, 2, uintptr(m.control)}, Sys: &syscall.SysProcAttr{Setsid: true}})
	if err != nil {
		return "", at("fork", err)
	}
	return m.beKilled()
}

// outliveExec has a thread that is not the first exec: Linux keeps the first
// thread's pid, but the death signal was the thread's that is gone.
func outliveExec(m *mission) (string, error) {
	if m.control != 3 {
		if err := unix.Dup3(m.control, 3, 0); err != nil {
			return "", at("dup3", err)
		}
	}
	failed := make(chan error)
	go func() {
		runtime.LockOSThread()
		failed <- unix.Exec("/proc/self/exe", []string{"intruder", "survivor", "tell"}, os.Environ())
	}()
	return "", at("execve", <-failed)
}

func (m *mission) beKilled() (string, error) {
	_, err := m.ask("survivor", "")
	if err == nil {
		_, err = m.line() // until the end
	}
	return "survived", err
}

// survive lives for as long as the harness keeps the connection open, at the
// longest the life of an intruder, and answers what it is asked.
func survive(tell bool) {
	if tell {
		(&mission{control: 3}).say(wire.Message{Ask: "survivor"})
	}
	buffer := make([]byte, 64)
	for readable(3, lifetime) == nil {
		n, err := unix.Read(3, buffer)
		if err != nil || n == 0 {
			return
		}
		_, _ = unix.Write(3, buffer[:n])
	}
}

// startAndWait is a starter that can be killed.
func startAndWait(args []string) {
	files := []uintptr{0, 1, 2}
	for fd := uintptr(3); fd < 32; fd++ { // ends at the first that is not open, or not for us
		if flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 {
			break
		}
		files = append(files, fd)
	}
	pid, err := syscall.ForkExec(args[0], args, &syscall.ProcAttr{Env: os.Environ(), Files: files})
	if err != nil {
		fmt.Fprintln(os.Stderr, "starter:", err)
		os.Exit(1)
	}
	for _, fd := range files[3:] {
		unix.Close(int(fd))
	}
	status, _ := wait(pid)
	os.Exit(status.ExitStatus())
}

// coreDump: a limit below a page keeps the kernel from writing a file, and only
// one of exactly 1 from feeding a program of the host, where core_pattern names
// one: do_coredump of the kernel. So it must neither grow nor go to 0.
func coreDump(*mission) (string, error) {
	var limit unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_CORE, nil, &limit); err != nil {
		return "", at("prlimit", err)
	}
	if limit.Cur = 0; limit.Max >= 4096 {
		limit.Cur = limit.Max
	}
	if err := unix.Prlimit(0, unix.RLIMIT_CORE, &limit, nil); err != nil {
		return "", at("prlimit", err)
	}
	if err := unix.Prlimit(0, unix.RLIMIT_CORE, nil, &limit); err != nil {
		return "", at("prlimit", err)
	}
	if limit.Cur == 1 {
		return "", errors.New("RLIMIT_CORE stays 1")
	}
	return fmt.Sprintf("RLIMIT_CORE is %d: a crash would dump core", limit.Cur), at("prctl PR_SET_DUMPABLE", unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0))
}
