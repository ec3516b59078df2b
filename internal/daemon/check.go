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
		text = append(text, conf.AppendTOML(nil)...)
	}
	_, err = w.Write(text)
	return err
}
