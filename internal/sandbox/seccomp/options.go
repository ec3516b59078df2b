package seccomp

import (
	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockopt"
)

// options is for setsockopt(2): level and name are ints in registers.
func options(*Profile) verdict {
	refused := refuse(unix.ENOPROTOOPT)
	allowed := map[int][]one{}
	for _, o := range sockopt.Table {
		if o.Use&sockopt.Allowed != 0 {
			allowed[o.Level] = append(allowed[o.Level], values(allow(), uint32(o.Name))...)
		}
	}
	var levels []one
	for level, names := range allowed {
		levels = append(levels, values(choose(fieldArg2, 0, refused, names...), uint32(level))...)
	}
	return choose(fieldArg1, 0, refused, levels...)
}
