package proc

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// ListFamily lists the processes in the pid namespace of a process, itself among them, most of them at the most; none where that
// is our own namespace. It climbs to the one that all others are below, pid_namespaces(7), and follows the children that
// the kernel lists (CONFIG_PROC_CHILDREN, proc_tid_children(5)).
func ListFamily(pid, most int) (family []int) {
	space := pidNamespace(pid)
	if space == "" || space == pidNamespace(os.Getpid()) {
		return nil
	}
	for range most {
		status, _ := ReadStatus(pid)
		parent, err := strconv.Atoi(status["PPid"])
		if err != nil || pidNamespace(parent) != space {
			break
		}
		pid = parent
	}
	family = []int{pid}
	for i := 0; i < len(family) && len(family) < most; i++ {
		for _, child := range listChildren(family[i]) {
			if !slices.Contains(family, child) && pidNamespace(child) == space {
				family = append(family, child)
			}
		}
	}
	return family[:min(len(family), most)]
}

func pidNamespace(pid int) string {
	name, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	return name
}

// listChildren lists the children of all threads of a process.
func listChildren(pid int) (children []int) {
	for _, thread := range listThreads(pid) {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, thread))
		for field := range strings.FieldsSeq(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				children = append(children, child)
			}
		}
	}
	return children
}
