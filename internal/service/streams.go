package service

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"activator/internal/output"
	"activator/internal/process"
)

// stream is where one of the program's output descriptors leads. It is a pipe of ours
// or /dev/null: what the program had a descriptor of it could also read, cut off, or
// give other flags, which all who have it share.
type stream struct {
	name   string
	to     string         // as the configuration says
	child  *os.File       // the program's end, ours to close; nil after closeLent
	ours   *os.File       // the pipe's other end; nil when there is no pipe, or it is another stream's
	target *output.Target // what comes from the pipe goes there; nil: to the log
}

// streams are stdout and stderr.
type streams [2]stream

// openStreams makes the program's ends.
func openStreams(stdout, stderr string) (all streams, err error) {
	all = streams{{name: "stdout", to: stdout}, {name: "stderr", to: stderr}}
	if all.haveOneFile() {
		all[0].ours, all[0].child, err = output.OpenPipe()
		return all, streamError("stdout", err)
	}
	for i := range all {
		st := &all[i]
		if st.to == "null" {
			st.child, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		} else {
			st.ours, st.child, err = output.OpenPipe()
		}
		if err != nil {
			all.closeLent()
			all.closeOurs()
			return streams{}, streamError(st.name, err)
		}
	}
	return all, nil
}

// haveOneFile reports whether both streams lead to one file. They have one pipe then, and
// what the program prints stays in order.
func (all *streams) haveOneFile() bool {
	if all[0].to == "inherit" && all[1].to == "inherit" {
		return output.SameFile(os.Stdout, os.Stderr)
	}
	return filepath.IsAbs(all[0].to) && all[0].to == all[1].to
}

// leadToFiles reports whether a stream leads to a file of its own.
func (all *streams) leadToFiles() bool { return filepath.IsAbs(all[0].to) || filepath.IsAbs(all[1].to) }

func streamError(name string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// openTargets opens what the streams lead to, once the service's own directories are
// there.
func (all *streams) openTargets(sink *output.Sink, service string) (err error) {
	own := [2]*os.File{os.Stdout, os.Stderr}
	for i := range all {
		st := &all[i]
		switch {
		case st.ours == nil || st.to == "log" || st.to == "":
		case st.to == "inherit":
			st.target = sink.Inherit(own[i], service)
		default:
			if st.target, err = sink.OpenTarget(st.to, service); err != nil {
				all.closeOurs()
				return streamError(st.name, err)
			}
		}
	}
	return nil
}

// lendEnds lends the program's ends, until closeLent.
func (all *streams) lendEnds() process.Stdio {
	out, errs := all[0].child, all[1].child
	if errs == nil {
		errs = out
	}
	return process.Stdio{Out: out, Err: errs}
}

// outputFile is a file as it was opened.
type outputFile struct {
	path string
	info os.FileInfo
}

// listFiles tells the files among the streams.
func (all *streams) listFiles() (files []outputFile) {
	for i := range all {
		if st := &all[i]; st.target != nil && filepath.IsAbs(st.to) {
			files = append(files, outputFile{st.to, st.target.Info()})
		}
	}
	return files
}

// isSame reports whether the file is still what stands at the path: logs are
// rotated.
func (f outputFile) isSame() bool {
	info, err := os.Stat(f.path)
	return err == nil && f.info != nil && os.SameFile(f.info, info)
}

// closeLent closes our copies of what the child now has.
func (all *streams) closeLent() {
	for i := range all {
		if st := &all[i]; st.child != nil {
			_ = st.child.Close()
			st.child = nil
		}
	}
}

// closeOurs closes what is not copied from or to.
func (all *streams) closeOurs() {
	for i := range all {
		st := &all[i]
		if st.ours != nil {
			_ = st.ours.Close()
			st.ours = nil
		}
		if st.target != nil {
			st.target.Close()
			st.target = nil
		}
	}
}

// pumps copy a program's output to where it goes.
type pumps struct {
	all    []*output.Pump
	errors *output.Pump // of stderr; nil: none
	syslog *output.Pump // nil: none
}

// startPumps takes syslog, nil for none.
func (all *streams) startPumps(sink *output.Sink, service string, pid int, syslog *os.File) pumps {
	var running pumps
	if syslog != nil {
		running.syslog = sink.StartSyslog(syslog, service, pid)
		running.all = append(running.all, running.syslog)
	}
	for i := range all {
		st := &all[i]
		switch {
		case st.ours == nil:
			continue
		case st.target != nil:
			running.all = append(running.all, output.CopyBytes(st.ours, st.target))
		default:
			running.all = append(running.all, sink.StartPump(st.ours, service, st.name, pid))
		}
		if st.name == "stderr" || all.haveOneFile() {
			running.errors = running.all[len(running.all)-1]
		}
		st.ours, st.target = nil, nil
	}
	return running
}

// waitAll waits until everything the program printed is where it goes. Another process
// that holds the pipe (a container's monitor) gets no longer than lingering.
func (ps pumps) waitAll() {
	for _, p := range ps.all {
		p.Finish(lingering)
	}
}

// lastLines are the last lines of what was printed to stderr, or else to stdout, after waitAll.
func (ps pumps) lastLines() (lines []string) {
	if ps.errors != nil {
		lines = ps.errors.LastLines()
	}
	for _, p := range ps.all {
		if len(lines) == 0 && p != ps.errors {
			lines = p.LastLines()
		}
	}
	return lines
}

// lastWords are the last line of what came by stderr, or else by syslog(3), after waitAll; "": none.
func (ps pumps) lastWords() (line string) {
	for _, p := range []*output.Pump{ps.errors, ps.syslog} {
		if p != nil && line == "" {
			line = p.LastLine()
		}
	}
	return line
}

// lingering is how long output may still come after the exit.
const lingering = 100 * time.Millisecond
