package daemon

import (
	"fmt"
	"io"
	"sync"

	"activator/internal/config"
	"activator/internal/replyonly"
)

// Check reads the configuration and touches nothing. Sound, it writes what it
// found to w: a line a service, or with verbose the effective configuration, as
// TOML that can be fed back.
func Check(paths []string, verbose bool, w io.Writer) error {
	services, err := load(paths)
	if err != nil {
		return err
	}
	var text []byte
	for i, conf := range services {
		if !verbose {
			text = fmt.Appendf(text, "%s: service %s: %d sockets, good\n", conf.File, conf.Name, len(conf.Sockets))
			continue
		}
		if i > 0 {
			text = append(text, '\n')
		}
		text = fmt.Appendf(text, "# service %s, from %s\n", conf.Name, conf.File)
		text = append(text, sealed(conf)...)
		text = append(text, conf.AppendTOML(nil)...)
	}
	_, err = w.Write(text)
	return err
}

// answering asks the kernel once, also for many sockets: each time it loads programs.
var answering = sync.OnceValue(func() bool {
	ok, _, _ := replyonly.Ability()
	return ok
})

// sealed says how each socket would be sealed here, as comments, and what the
// seal lacks.
func sealed(conf config.Service) (text []byte) {
	s := seal(conf, answering)
	for _, spec := range s.sockets {
		text = fmt.Appendf(text, "# sealed: %s: %s\n", spec.Address, describe(spec, conf))
	}
	for _, l := range s.lacks {
		text = fmt.Appendf(text, "# open here: %s\n", l)
	}
	for _, l := range s.lesser {
		text = fmt.Appendf(text, "# less than on a newer kernel: %s\n", l)
	}
	return text
}
