package daemon

import (
	"fmt"
	"io"
)

// Check reads the configuration and touches nothing. Sound, it writes what it
// found to w: a line a service, or with verbose the effective configuration, as
// TOML that can be fed back.
func Check(paths []string, verbose bool, w io.Writer) error {
	services, err := load(paths)
	if err != nil {
		return err
	}
	for i, conf := range services {
		if !verbose {
			fmt.Fprintf(w, "%s: service %s: %d sockets, good\n", conf.File, conf.Name, len(conf.Sockets))
			continue
		}
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "# service %s, from %s\n%s", conf.Name, conf.File, conf.AppendTOML(nil))
	}
	return nil
}
