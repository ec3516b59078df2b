package daemon

import (
	"cmp"
	"os"
	"slices"

	"activator/internal/config"
	"activator/internal/kernel/cgroup"
	"activator/internal/spec"
)

// groups are the control groups of the services, if one of them asks for limits that only a group
// can keep.
type groups struct {
	tried bool
	tree  *cgroup.Tree // nil: none yet, or none to be had
	err   error        // why
}

// ParseSize reads bytes, such as "512M", as a configuration has them.
func ParseSize(text string) (uint64, error) { return config.ParseSize(text) }

// groupPrefix begins the name of the group that has all of them.
const groupPrefix = "activator-services-"

// openGroup makes the group of a service, or says why there is none. Where tasks_max is not kept by
// a group, the limit "nproc" comes near it. The service owns the group.
func (d *Daemon) openGroup(s *spec.Service) *cgroup.Group {
	if s.Container != nil && d.options.MemoryMax != 0 {
		d.log.Warn("limit not kept: --memory-max does not count a container, which its engine runs", "service", s.Name, "cure", "container.options: --memory")
	}
	if s.Container != nil || s.Resources == (spec.Resources{}) && d.options.MemoryMax == 0 {
		return nil
	}
	d.divideGroup()
	if d.groups.tree == nil {
		d.tellUnkept(s, nil, d.groups.err)
		return nil
	}
	group, unkept, err := d.groups.tree.OpenService(s.Name, s.Resources)
	if err != nil {
		d.tellUnkept(s, nil, err)
		return nil
	}
	d.tellUnkept(s, unkept, nil)
	return group
}

// divideGroup divides our own control group, once.
func (d *Daemon) divideGroup() {
	g := &d.groups
	if g.tried {
		return
	}
	g.tried = true
	if g.tree, g.err = cgroup.Divide(groupPrefix); g.err != nil {
		g.tree = nil
	}
	if d.options.MemoryMax == 0 {
		return
	}
	err := g.err
	if err == nil {
		err = g.tree.LimitMemory(d.options.MemoryMax)
	}
	if err != nil {
		d.log.Warn("limit not kept: --memory-max", "err", err)
	}
}

// unkeptLimit is a limit of a service that no control group keeps.
type unkeptLimit struct {
	key string
	why error
}

// listUnkept lists the limits of a service that are not kept: those in unkept, or, after an error, all.
func listUnkept(s *spec.Service, unkept map[string]error, err error) (list []unkeptLimit) {
	for _, limit := range []struct {
		key   string
		value uint64
	}{{"memory_max", s.MemoryMax}, {"tasks_max", s.TasksMax}, {"cpu_weight", s.CPUWeight}} {
		why := err
		if why == nil {
			why = unkept[limit.key]
		}
		if limit.value != 0 && why != nil {
			list = append(list, unkeptLimit{limit.key, why})
		}
	}
	return list
}

// tellUnkept says which limits of a service are not kept, and why.
func (d *Daemon) tellUnkept(s *spec.Service, unkept map[string]error, err error) {
	for _, limit := range listUnkept(s, unkept, err) {
		if limit.key == "tasks_max" && keepsProcesses(s) {
			limitProcesses(s)
			d.log.Info("limit kept by less than a control group: tasks_max", "service", s.Name, "by", "nproc, which counts what its user has", "why", limit.why)
			continue
		}
		d.log.Warn("limit not kept: "+limit.key, "service", s.Name, "err", limit.why)
	}
}

// keepsProcesses reports whether the limit "nproc" binds a service: it does not bind root.
func keepsProcesses(s *spec.Service) bool {
	return os.Geteuid() != 0 || s.User != "root" && s.User != "0"
}

// limitProcesses sets the limit "nproc" to tasks_max, unless it is less.
func limitProcesses(s *spec.Service) {
	limit := spec.Limit{Resource: "nproc", Soft: s.TasksMax, Hard: s.TasksMax}
	at, there := slices.BinarySearchFunc(s.Limits, "nproc", func(l spec.Limit, name string) int {
		return cmp.Compare(l.Resource, name)
	})
	if there {
		l := s.Limits[at]
		limit.Soft, limit.Hard = min(l.Soft, s.TasksMax), min(l.Hard, s.TasksMax)
		s.Limits = slices.Clone(s.Limits)
		s.Limits[at] = limit
		return
	}
	s.Limits = slices.Insert(slices.Clone(s.Limits), at, limit)
}

func (g *groups) closeTree() {
	if g.tree != nil {
		g.tree.Close()
	}
}
