package escape

import (
	"fmt"
	"os"
	"strings"

	"activator/test/escape/wire"

	"golang.org/x/sys/unix"
)

// Probes of what an intruder leaves in its own queues have two sockets more: a unix datagram socket with an
// abstract name, and a FIFO.

func (w *world) refills(p wire.Probe) bool {
	return strings.HasPrefix(p.Name, "refill-") || p.Name == "poison-fifo-mode"
}

// refillConfiguration is in front of the other sockets.
func (w *world) refillConfiguration(p wire.Probe) string {
	if !w.refills(p) {
		return ""
	}
	return fmt.Sprintf("[[socket]]\nlisten = [\"unixgram://%s\", \"fifo://%s\"]\n\n", w.abstractgram, w.fifo)
}

// refillFiles are the same two, bound.
func (h *handed) refillFiles(p wire.Probe) ([]*os.File, error) {
	if !h.w.refills(p) {
		return nil, nil
	}
	gram, err := bind(h.t.Context(), "unixgram", h.w.abstractgram)
	if err != nil {
		return nil, err
	}
	if err := unix.Mkfifo(h.w.fifo, 0o666); err != nil {
		return nil, err
	}
	pipe, err := os.OpenFile(h.w.fifo, os.O_RDWR, 0)
	if err == nil {
		err = os.Chmod(h.w.fifo, 0o666) // less no umask
	}
	return []*os.File{gram, pipe}, err
}

// followRefill has the next instance read what is left, and looks at the FIFO's mode.
func (w *world) followRefill(o *operator, r wire.Result) wire.Result {
	way := "udp4"
	switch name := o.probe.Name; {
	case strings.HasSuffix(name, "v6"):
		way = "udp6"
	case name == "refill-unixgram":
		way = "abstractgram"
	case name == "refill-unixgram-path":
		way = "unixgram"
	case strings.Contains(name, "fifo"):
		way = "fifo"
	}
	o.s.ended()
	left, how := w.serve(o.s, way+" refill", nil)
	if strings.HasPrefix(how, "no answer") {
		w.t.Fatalf("the next instance: %s\n%s", how, o.s.output())
	}
	if o.probe.Name == "poison-fifo-mode" {
		info, err := os.Stat(w.fifo)
		if err != nil {
			w.t.Fatal(err)
		}
		left, how = info.Mode().Perm() != 0o666, info.Mode().String()
	}
	r.Achieved = left
	r.How += "; the next instance: " + how
	return r
}
