package daemon

import (
	"fmt"
	"os"
	"strings"

	"activator/internal/config"
	"activator/internal/process"
)

// checkArguments finds arguments and an environment that execve(2) takes for too long.
func (x *examination) checkArguments(source config.Source) {
	conf := source.Service
	if conf.Container != nil {
		return
	}
	longest := 32 * os.Getpagesize() // MAX_ARG_STRLEN
	total := 0
	check := func(p config.Place, text string) {
		total += len(text) + 1 + 8 // with its pointer
		if len(text) >= longest {
			x.addError(source, p, fmt.Sprintf("has %d bytes, and the kernel takes %d", len(text), longest-1), "put it into a file that the program reads")
			total -= len(text)
		}
	}
	for i, argument := range conf.Argv {
		check(config.Place{Key: "service.exec", Item: i + 1}, argument)
	}
	for _, variable := range conf.Env {
		name, _, _ := strings.Cut(variable, "=")
		check(config.Place{Key: "service.environment", Name: name}, variable)
	}
	if names := "LISTEN_FDNAMES=" + strings.Join(conf.FDNames, ":"); conf.Inherits() {
		total += len(names) + 1 + 8
		if len(names) >= longest {
			x.addError(source, config.Place{Key: "socket.name"}, fmt.Sprintf("the names of %d sockets make %d bytes of LISTEN_FDNAMES, and the kernel takes %d", len(conf.FDNames), len(names), longest-1),
				"give them shorter names, or have several services for them")
			total -= len(names)
		}
	}
	if most := process.MostArguments(conf.Process); total > most {
		x.addError(source, config.Place{Key: "service.exec"},
			fmt.Sprintf("the arguments and the environment have %d bytes, and the kernel takes %d", total, most), "put them into a file that the program reads")
	}
}
