package stand

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// On starts things on one processor alone: what start starts stays there, and so does
// what that starts. Where there is but one processor it makes no difference.
func On(processor int, start func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("sched_getaffinity: %w", err)
	}
	var only unix.CPUSet
	for cpu, seen := 0, 0; cpu < 8*len(before)*8; cpu++ {
		if before.IsSet(cpu) {
			if seen == processor {
				only.Set(cpu)
			}
			seen++
		}
	}
	if only.Count() == 0 {
		return start()
	}
	if err := unix.SchedSetaffinity(0, &only); err != nil {
		return fmt.Errorf("sched_setaffinity: %w", err)
	}
	defer func() { _ = unix.SchedSetaffinity(0, &before) }()
	return start()
}

// Output runs a program to its end and returns what it printed; aside, on the second
// processor.
func Output(aside bool, argv ...string) (string, error) {
	var out []byte
	run := func() (err error) {
		out, err = exec.Command(argv[0], argv[1:]...).CombinedOutput()
		return err
	}
	if !aside {
		err := run()
		return string(out), err
	}
	err := On(1, run)
	return string(out), err
}

// CPU is how long a process, and all that it has started and that are there, have been
// on a processor: the first number of /proc/PID/task/TID/schedstat, in nanoseconds.
func CPU(pid int) time.Duration {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	var sum time.Duration
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread is gone
		}
		words := strings.Fields(string(text))
		if len(words) == 0 {
			continue
		}
		n, _ := strconv.ParseInt(words[0], 10, 64)
		sum += time.Duration(n)
	}
	for _, child := range Children(pid) {
		sum += CPU(child)
	}
	return sum
}
