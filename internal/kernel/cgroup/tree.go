package cgroup

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/kernel/proc"
	"activator/internal/spec"
)

// Tree is our own group, divided:
//
//	base                 the group that we were started in
//	  activator-…        of all that we have made
//	    self             we, unless base is the root of all groups
//	    NAME.service     a service's processes
type Tree struct {
	groups  *Hierarchy
	base    *os.File
	all     *Group
	self    *Group   // nil: we are in base
	enabled []string // controllers that we have enabled in base
	has     []string // controllers that services' groups have
}

// controllers are those that keep a service's limits.
var controllers = []string{"memory", "pids", "cpu"}

const (
	procsFile   = "cgroup.procs"
	enabledFile = "cgroup.subtree_control"
)

// Divide divides our own group. It moves us and our children to a part of it, unless it is the root
// of all groups, which alone may have processes and divide what it has. The caller closes the tree.
func Divide(prefix string) (*Tree, error) {
	groups, err := openHierarchy(prefix)
	if err != nil {
		return nil, err
	}
	t := &Tree{groups: groups}
	if err := t.divide(); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// Examine reports whether Divide would work here, as far as can be seen without changing anything,
// and which of l would not be kept, by their keys.
func Examine(l spec.Resources) (unkept map[string]error, err error) {
	groups, err := openHierarchy("")
	if err != nil {
		return nil, err
	}
	t := &Tree{groups: groups}
	defer t.Close()
	if t.base, err = t.groups.OpenOwn(); err != nil {
		return nil, err
	}
	if t.has, err = t.listOffered(); err != nil {
		return nil, err
	}
	may := fd.Control(t.base, func(base int) error { return unix.Faccessat2(base, ".", unix.W_OK, unix.AT_EACCESS) })
	if may != nil {
		return nil, fmt.Errorf("%w: %s", may, needsDelegation)
	}
	unkept = make(map[string]error)
	for _, limit := range listLimits(l) {
		if limit.value != 0 && !slices.Contains(t.has, limit.controller) {
			unkept[limit.key] = missing(limit.controller)
		}
	}
	return unkept, nil
}

const needsDelegation = "our cgroup must be our own to divide: Delegate=yes in a systemd unit"

// openHierarchy opens what there is for us: the host's may be read-only in a container.
func openHierarchy(prefix string) (*Hierarchy, error) {
	groups, err := Mount(prefix)
	if err != nil { // not root
		return Find(prefix)
	}
	return groups, nil
}

// listOffered lists the controllers that groups below base can have.
func (t *Tree) listOffered() ([]string, error) {
	offered, err := readWords(t.base, "cgroup.controllers")
	if err != nil {
		return nil, err
	}
	if offered = slices.DeleteFunc(offered, func(name string) bool { return !slices.Contains(controllers, name) }); len(offered) == 0 {
		return nil, errors.New("cgroup v2 has no controllers here, neither memory nor pids nor cpu: they are cgroup v1's, or not delegated to us")
	}
	return offered, nil
}

func (t *Tree) divide() (err error) {
	if err = t.groups.Sweep(); err != nil {
		return err
	}
	if t.base, err = t.groups.OpenOwn(); err != nil {
		return err
	}
	offered, err := t.listOffered()
	if err != nil {
		return err
	}
	if t.all, err = t.groups.Make(); err != nil {
		return fmt.Errorf("%w: %s", err, needsDelegation)
	}
	if err = t.leaveBase(); err != nil {
		return err
	}
	for _, name := range offered {
		if err = t.enableInBase(name); err == nil {
			err = t.all.write(enabledFile, "+"+name)
		}
		if err != nil {
			return err
		}
		t.has = append(t.has, name)
	}
	return nil
}

// enableInBase has the groups below base get a controller.
func (t *Tree) enableInBase(name string) error {
	before, err := readWords(t.base, enabledFile)
	if err != nil || slices.Contains(before, name) {
		return err
	}
	if err = writeFile(t.base, enabledFile, "+"+name); err == nil {
		t.enabled = append(t.enabled, name)
	}
	return err
}

// leaveBase moves us out of base, and our children. Only the root of all groups, which has no type,
// may have processes and divide what it has.
func (t *Tree) leaveBase() (err error) {
	if _, err := readWords(t.base, "cgroup.type"); errors.Is(err, unix.ENOENT) {
		return nil
	}
	if t.self, err = t.all.MakeBelow("self"); err != nil {
		return err
	}
	if err = movePids(t.base, t.self.dir); err != nil {
		return err
	}
	others, err := readWords(t.base, procsFile)
	if err == nil && len(others) > 0 {
		err = errors.New("other processes share our cgroup: start the activator in one of its own")
	}
	return err
}

// movePids moves us and what descends from us from one group to another.
func movePids(from, to *os.File) error {
	pids, err := readWords(from, procsFile)
	if err != nil {
		return err
	}
	for _, word := range pids {
		pid, _ := strconv.Atoi(word)
		if !isOurs(pid) {
			continue
		}
		if err := writeFile(to, procsFile, word); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// isOurs reports whether a process is we, or descends from us.
func isOurs(pid int) bool {
	for range 64 { // a parent may end meanwhile, and its number be another's
		if pid == os.Getpid() {
			return true
		}
		status, err := proc.ReadStatus(pid)
		if err != nil {
			return false
		}
		if pid, err = strconv.Atoi(status["PPid"]); err != nil || pid == 0 {
			return false
		}
	}
	return false
}

// LimitMemory limits the memory of all services together.
func (t *Tree) LimitMemory(bytes uint64) error {
	if !slices.Contains(t.has, "memory") {
		return missing("memory")
	}
	return t.all.write("memory.max", strconv.FormatUint(bytes, 10))
}

func missing(controller string) error {
	return fmt.Errorf("cgroup v2 has no controller %q here", controller)
}

// limit is one of a service's, and what keeps it.
type limit struct {
	key, controller, file string
	value                 uint64 // 0: none
}

func listLimits(l spec.Resources) []limit {
	return []limit{
		{"memory_max", "memory", "memory.max", l.MemoryMax},
		{"tasks_max", "pids", "pids.max", l.TasksMax},
		{"cpu_weight", "cpu", "cpu.weight", l.CPUWeight},
	}
}

// OpenService makes the group of a service, with the limits that can be kept here. It says of each of the
// others why not, by its key. The caller closes the group when the service is gone.
func (t *Tree) OpenService(service string, l spec.Resources) (*Group, map[string]error, error) {
	g, err := t.all.MakeBelow(service + ".service")
	if err != nil {
		return nil, nil, err
	}
	unkept := make(map[string]error)
	for _, limit := range listLimits(l) {
		switch {
		case limit.value == 0:
		case !slices.Contains(t.has, limit.controller):
			unkept[limit.key] = missing(limit.controller)
		default:
			if err := g.write(limit.file, strconv.FormatUint(limit.value, 10)); err != nil {
				unkept[limit.key] = err
			}
		}
	}
	return g, unkept, nil
}

// Close undoes what Divide has done. The groups of services are closed before.
func (t *Tree) Close() {
	if t.all != nil {
		for _, name := range t.has {
			_ = t.all.write(enabledFile, "-"+name)
		}
		for _, name := range t.enabled {
			_ = writeFile(t.base, enabledFile, "-"+name)
		}
		if t.self != nil {
			_ = movePids(t.self.dir, t.base)
			t.self.Close()
		}
		t.all.Close()
	}
	if t.base != nil {
		_ = t.base.Close()
	}
	t.groups.Close()
}

// Add puts a process into the group, and what it will start.
func (g *Group) Add(pid int) error { return g.write(procsFile, strconv.Itoa(pid)) }

// TakeKilled returns how many processes of the group the kernel has ended for want of memory since
// it was asked last. Any goroutine may call it.
func (g *Group) TakeKilled() int64 {
	words, _ := readWords(g.dir, "memory.events")
	for i := 0; i+1 < len(words); i += 2 {
		if words[i] == "oom_kill" {
			n, _ := strconv.ParseInt(words[i+1], 10, 64)
			return n - g.killed.Swap(n)
		}
	}
	return 0
}

func (g *Group) write(file, text string) error { return writeFile(g.dir, file, text) }

// writeFile writes to a file of a group: all of it at once, as the kernel wants it.
func writeFile(dir *os.File, name, text string) error {
	file, err := openFile(dir, name, unix.O_WRONLY)
	if err == nil {
		_, err = file.WriteString(text)
		_ = file.Close()
	}
	return nameFile(err, dir, name, "write")
}

func readWords(dir *os.File, name string) ([]string, error) {
	file, err := openFile(dir, name, unix.O_RDONLY)
	if err != nil {
		return nil, nameFile(err, dir, name, "open")
	}
	defer file.Close()
	text, err := io.ReadAll(file)
	return strings.Fields(string(text)), nameFile(err, dir, name, "read")
}

func openFile(dir *os.File, name string, flags int) (file *os.File, err error) {
	err = fd.Control(dir, func(dir int) error {
		opened, err := fd.OpenBeneath(dir, name, flags)
		if err == nil {
			file = os.NewFile(uintptr(opened), name)
		}
		return err
	})
	return file, err
}

// nameFile names the group's file in an error.
func nameFile(err error, dir *os.File, name, call string) error {
	var path *os.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	if err == nil {
		return nil
	}
	return &os.PathError{Op: call, Path: dir.Name() + "/" + name, Err: err}
}
