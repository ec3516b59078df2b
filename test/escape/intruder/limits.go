package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"

	"activator/test/escape/wire"

	"golang.org/x/sys/unix"
)

// What can be used up. The bounds are ours: enough to tell a limit from none.
const (
	manyProcesses = 200
	muchMemory    = 2 << 30   // bytes of address space, of which little is touched
	muchSpace     = 300 << 20 // bytes of a file in memory
)

func limitProbes() []probe {
	var all []probe
	add := func(name, tries, means string, run func(*mission) (string, error)) {
		all = append(all, probe{wire.Probe{Name: name, Group: "limits", Tries: tries, Means: means, Witness: wire.WitnessKernel}, run})
	}
	add("fork-bomb", fmt.Sprintf("%d processes at once, against limits nproc = 64", manyProcesses), "all of them run", forkBomb)
	add("memory", "2 GiB mapped, against limits as = 1 GiB", "mapped, and written to here and there", eatMemory)
	add("fill-tmp", "300 MiB written to /tmp, /dev/shm, /run or /var, against no limit that was set", "they fit", fillTmp)
	add("raise-limits", "setrlimit() of more files than it was given", "the kernel takes it", raiseLimits)
	add("realtime", "sched_setscheduler(SCHED_FIFO), for a moment", "the kernel takes it", func(*mission) (string, error) {
		const other, fifo = 0, 1
		priority := int32(1)
		if err := call(unix.SYS_SCHED_SETSCHEDULER, 0, fifo, uintptr(unsafe.Pointer(&priority))); err != nil {
			return "", at("sched_setscheduler", err)
		}
		priority = 0
		return "before everybody else", call(unix.SYS_SCHED_SETSCHEDULER, 0, other, uintptr(unsafe.Pointer(&priority)))
	})
	add("priority", "setpriority() to -5", "the kernel takes it", func(*mission) (string, error) {
		return "more than its share", at("setpriority", unix.Setpriority(unix.PRIO_PROCESS, 0, -5))
	})
	return all
}

func forkBomb(*mission) (how string, err error) {
	var pids []int
	defer func() {
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		for _, pid := range pids {
			_, _ = wait(pid)
		}
	}()
	for len(pids) < manyProcesses {
		pid, err := syscall.ForkExec("/proc/self/exe", []string{"intruder", "sleep"}, &syscall.ProcAttr{Env: []string{"GOMAXPROCS=1"}})
		if err != nil {
			return "", at(fmt.Sprintf("fork number %d", len(pids)+1), err)
		}
		pids = append(pids, pid)
	}
	return fmt.Sprintf("%d processes", len(pids)), nil
}

func eatMemory(*mission) (string, error) {
	memory, err := unix.Mmap(-1, 0, muchMemory, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return "", at("mmap", err)
	}
	for i := 0; i < len(memory); i += 16 << 20 {
		memory[i] = 1
	}
	return "2 GiB mapped", nil
}

// fillTmp wants space that is the machine's memory or disk; fallocate(2) takes it
// without writing.
func fillTmp(m *mission) (string, error) {
	var full []string
	for _, dir := range []string{"/tmp", "/dev/shm", "/run", "/var", "/var/tmp"} {
		path := filepath.Join(dir, "intruder-"+m.Nonce)
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
		if err != nil {
			continue
		}
		_ = unix.Unlink(path)
		err = unix.Fallocate(fd, 0, 0, muchSpace)
		unix.Close(fd)
		if err == nil {
			return "300 MiB fit into " + dir, nil
		}
		full = append(full, at(dir, err).Error())
	}
	return "", errors.New("fallocate: " + strings.Join(full, ", "))
}

func raiseLimits(*mission) (string, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return "", at("getrlimit", err)
	}
	limit.Max++
	limit.Cur = limit.Max
	return "more files", at("setrlimit", unix.Prlimit(0, unix.RLIMIT_NOFILE, &limit, nil))
}
