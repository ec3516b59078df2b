package seccomp

import (
	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockopt"
)

// checkOption is for setsockopt(2): level and name are ints in registers. Whose socket it is a filter
// cannot see: a service that has a supervisor anyway asks it for what only an own socket may have.
func checkOption(p *Profile) verdict {
	refused := refuseWith(unix.ENOPROTOOPT)
	answered := map[int][]one{}
	for _, o := range sockopt.Table {
		switch {
		case o.Use&sockopt.Withheld != 0 && o.Use&sockopt.Frequent == 0 && p.withhold:
			answered[o.Level] = append(answered[o.Level], casesOf(askSupervisor(), uint32(o.Name))...)
		case o.Use&sockopt.Allowed != 0:
			answered[o.Level] = append(answered[o.Level], casesOf(allowCall(), uint32(o.Name))...)
		case o.Use&sockopt.Ignored != 0:
			answered[o.Level] = append(answered[o.Level], casesOf(refuseWith(0), uint32(o.Name))...)
		case o.Use&sockopt.Own != 0 && (p.ask || p.supervise || p.withhold):
			answered[o.Level] = append(answered[o.Level], casesOf(askSupervisor(), uint32(o.Name))...)
		}
	}
	var levels []one
	for level, names := range answered {
		levels = append(levels, casesOf(newChoice(fieldArg2, 0, refused, names...), uint32(level))...)
	}
	return newChoice(fieldArg1, 0, refused, levels...)
}
