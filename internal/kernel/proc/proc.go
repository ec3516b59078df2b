// Package proc reads what the kernel tells of a process, and of itself: files of /proc with a
// name and a value in each line, and settings.
//
//	status, err := proc.ReadStatus(pid)
//	group := status["Gid"]
package proc

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ReadStatus returns the fields of /proc/PID/status, of a process or a thread: proc_pid_status(5).
func ReadStatus(pid int) (map[string]string, error) {
	return readFields(fmt.Sprintf("/proc/%d/status", pid))
}

// ReadDescriptor returns those of /proc/PID/fdinfo/FD: proc_pid_fdinfo(5).
func ReadDescriptor(pid, fd int) (map[string]string, error) {
	return readFields(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
}

func readFields(path string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	all := make(map[string]string, 64)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		all[name] = strings.TrimSpace(value)
	}
	return all, nil
}

// ReadSysctl is a setting of the kernel by its name, such as "kernel.pid_max"; "": there is none.
func ReadSysctl(name string) string {
	text, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// KernelRelease is the kernel's, uname(2).
func KernelRelease() string {
	var name unix.Utsname
	_ = unix.Uname(&name) // it fails for a bad address only
	return unix.ByteSliceToString(name.Release[:])
}

// ListPids lists the processes in our pid namespace.
func ListPids() []int { return listNumbers("/proc") }

// listNumbers lists what in a folder has a number for a name.
func listNumbers(folder string) (numbers []int) {
	paths, _ := filepath.Glob(folder + "/[0-9]*") // the pattern is a good one
	for _, path := range paths {
		if number, err := strconv.Atoi(filepath.Base(path)); err == nil {
			numbers = append(numbers, number)
		}
	}
	return numbers
}

// InSystemCall reports whether a process, or a thread, waits in a system call: proc_pid_syscall(5).
func InSystemCall(pid, number int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
	first, _, _ := strings.Cut(string(text), " ")
	return err == nil && first == strconv.Itoa(number)
}

// listThreads lists the threads of a process.
func listThreads(pid int) []int { return listNumbers(fmt.Sprintf("/proc/%d/task", pid)) }
