package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"activator/test/escape/wire"

	"golang.org/x/sys/unix"
)

// adder adds a probe to a group.
type adder func(name, tries, means, witness string, run func(*mission) (string, error))

// What can be done to a process of the host by other handles than its signals and its memory.
func addHandleProbes(add adder) {
	const secret = "the secret of a process of the host read"
	const taken = "the kernel takes it"
	add("pidfd-signal", "pidfd_open() of a process of the host and pidfd_send_signal()", "it gets a signal", wire.WitnessHost, byPid(func(pid int) error {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return at("pidfd_open", err)
		}
		return at("pidfd_send_signal", unix.PidfdSendSignal(fd, unix.SIGUSR1, nil, 0))
	}))
	add("process-memory", "/proc/PID/mem of it", secret, wire.WitnessSecret, readProcessMemory)
	add("process-descriptor", "/proc/PID/fd of it", secret, wire.WitnessSecret, readProcessDescriptor)
	add("process-environment", "/proc/PID/environ of it", "read", wire.WitnessKernel, byPid(func(pid int) error {
		_, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		return at("open /proc/PID/environ", cause(err))
	}))
	add("process-limits", "prlimit() of it, to what it has", taken, wire.WitnessKernel, byPid(func(pid int) error {
		var limit unix.Rlimit
		err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &limit)
		if err == nil {
			err = unix.Prlimit(pid, unix.RLIMIT_NOFILE, &limit, nil)
		}
		return at("prlimit", err)
	}))
	add("process-affinity", "sched_setaffinity() of it, to what it has", taken, wire.WitnessKernel, byPid(func(pid int) error {
		var set unix.CPUSet
		err := unix.SchedGetaffinity(pid, &set)
		if err == nil {
			err = unix.SchedSetaffinity(pid, &set)
		}
		return at("sched_setaffinity", err)
	}))
	add("process-priority", "setpriority() of it", taken, wire.WitnessKernel, byPid(func(pid int) error {
		return at("setpriority", unix.Setpriority(unix.PRIO_PROCESS, pid, 19))
	}))
	add("process-advice", "process_madvise() of its memory, to be paged out", taken, wire.WitnessKernel, adviseProcess)
	add("process-group", "getpgid() of it", "the kernel knows it", wire.WitnessKernel, byPid(func(pid int) error {
		_, err := unix.Getpgid(pid)
		return at("getpgid", err)
	}))
}

// What System V lets processes share.
func addSharedProbes(add adder) {
	add("ipc-memory", "shmat() of a segment of the host's, System V", "its secret read", wire.WitnessSecret, sharedMemory)
	add("ipc-queue", "msgsnd() to a queue of the host's, System V", "taken", wire.WitnessKernel, func(m *mission) (string, error) {
		message := struct {
			kind int64
			text [8]byte
		}{kind: 1}
		return m.useIPC("queue", "msgsnd", func(id uintptr) error {
			return call(unix.SYS_MSGSND, id, uintptr(unsafe.Pointer(&message)), uintptr(len(message.text)), unix.IPC_NOWAIT)
		})
	})
	add("ipc-semaphore", "semctl(SETVAL) of a semaphore of the host's, System V", "set", wire.WitnessKernel, func(m *mission) (string, error) {
		const setValue = 16
		return m.useIPC("semaphore", "semctl", func(id uintptr) error { return call(unix.SYS_SEMCTL, id, 0, setValue, 7) })
	})
}

// byPid does something to a process of the host by its pid.
func byPid(do func(pid int) error) func(*mission) (string, error) {
	return func(m *mission) (string, error) {
		pid, _, err := m.target()
		if err != nil {
			return "", err
		}
		return "done to a process of the host", do(pid)
	}
}

// cause is the errno in an error of package os.
func cause(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

func readProcessDescriptor(m *mission) (string, error) {
	pid, where, err := m.target()
	if err != nil {
		return "", err
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/fd/%s", pid, where[2]), unix.O_RDONLY, 0)
	if err != nil {
		return "", at("open /proc/PID/fd", err)
	}
	return "opened its file", m.readSecret(fd)
}

func readProcessMemory(m *mission) (string, error) {
	pid, where, err := m.target()
	if err != nil {
		return "", err
	}
	address, err := strconv.ParseInt(where[1], 0, 64)
	if err != nil {
		return "", err
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/mem", pid), unix.O_RDONLY, 0)
	if err != nil {
		return "", at("open /proc/PID/mem", err)
	}
	text := make([]byte, secretSize)
	_, err = unix.Pread(fd, text, address)
	m.proof = string(text)
	return "read its memory", at("pread", err)
}

func adviseProcess(m *mission) (string, error) {
	pid, where, err := m.target()
	if err != nil {
		return "", err
	}
	address, err := strconv.ParseUint(where[1], 0, 64)
	if err != nil {
		return "", err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return "", at("pidfd_open", err)
	}
	page := uint64(os.Getpagesize())
	there := [2]uint64{address &^ (page - 1), page} // struct iovec
	const cold = 20
	return "advised", at("process_madvise", call(unix.SYS_PROCESS_MADVISE, uintptr(fd), uintptr(unsafe.Pointer(&there)), 1, cold, 0))
}

// useIPC does something to what the harness has made.
func (m *mission) useIPC(what, step string, do func(id uintptr) error) (string, error) {
	answer, err := m.ask("ipc", what)
	if err != nil {
		return "", err
	}
	id, err := strconv.Atoi(answer)
	if err != nil {
		return "", errors.New(answer)
	}
	return "reached the host's " + what, at(step, do(uintptr(id)))
}

func sharedMemory(m *mission) (string, error) {
	return m.useIPC("memory", "shmat", func(id uintptr) error {
		segment, err := unix.SysvShmAttach(int(id), 0, unix.SHM_RDONLY)
		if err != nil {
			return err
		}
		text, _, _ := bytes.Cut(segment, []byte{0})
		m.proof = strings.TrimSpace(string(text))
		return unix.SysvShmDetach(segment)
	})
}
