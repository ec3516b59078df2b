package seccomp

import (
	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockopt"
)

// checkOption is for setsockopt(2): level and name are ints in registers.
func checkOption(*Profile) verdict {
	refused := refuseWith(unix.ENOPROTOOPT)
	allowed := map[int][]one{}
	for _, o := range sockopt.Table {
		if o.Use&sockopt.Allowed != 0 {
			allowed[o.Level] = append(allowed[o.Level], casesOf(allowCall(), uint32(o.Name))...)
		}
	}
	var levels []one
	for level, names := range allowed {
		levels = append(levels, casesOf(newChoice(fieldArg2, 0, refused, names...), uint32(level))...)
	}
	return newChoice(fieldArg1, 0, refused, levels...)
}
