package escape

import (
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// outlet is what the intruder's stdout leads to, where a probe is about that: what the
// starters of our peers inherit and pass on, and the word that the activator's configuration has.
type outlet struct {
	file   *os.File // nil: as for all probes
	word   string
	harmed func() bool // for a witness that looks at the host
}

// openOutput makes what the probe is about. Others have written the secret to it.
func (w *world) openOutput(probe string) {
	log := filepath.Join(w.dir, "log")
	switch probe {
	case "stdio-reopen", "output-truncate", "output-overwrite":
		if err := os.WriteFile(log, []byte(w.secret+"\n"), 0o600); err != nil {
			w.t.Fatal(err)
		}
		w.output = outlet{word: log, harmed: func() bool {
			text, err := os.ReadFile(log)
			return err != nil || !strings.HasPrefix(string(text), w.secret+"\n")
		}}
	case "output-fifo":
		fifo := filepath.Join(w.dir, "fifo")
		if err := unix.Mkfifo(fifo, 0o600); err != nil {
			w.t.Fatal(err)
		}
		file, err := os.OpenFile(fifo, os.O_RDWR, 0)
		w.output = outlet{file: w.keep(file, err), word: fifo, harmed: func() bool {
			var stat unix.Stat_t
			err := unix.Stat(fifo, &stat)
			return err != nil || stat.Mode&0o777 != 0o600 || int(stat.Uid) != os.Geteuid()
		}}
	case "output-pipe":
		r, out, err := os.Pipe()
		w.output = outlet{file: w.keep(out, err), word: "inherit"}
		w.keep(r, nil)
		w.write(out)
	case "output-terminal":
		end := newTerminal(w.t)
		w.output = outlet{file: end.slave, word: "inherit"}
		w.write(end.master)
	case "output-socket":
		conn, err := net.Dial("udp4", "127.0.0.1:9")
		if err != nil {
			w.t.Fatal(err)
		}
		defer conn.Close()
		file, err := conn.(*net.UDPConn).File()
		w.output = outlet{file: w.keep(file, err), word: "inherit"}
	}
}

func (w *world) write(file *os.File) {
	if _, err := file.WriteString(w.secret + "\n"); err != nil {
		w.t.Fatal(err)
	}
}

// keep has a file closed at the test's end.
func (w *world) keep(file *os.File, err error) *os.File {
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { file.Close() })
	return file
}
