package service

import (
	"fmt"
	"os"
	"time"

	"activator/internal/output"
	"activator/internal/process"
)

// stream is where one of the program's output descriptors leads.
type stream struct {
	name  string
	child *os.File // lent to the child; ours to close unless inherited
	ours  *os.File // the pipe's other end; nil when there is no pipe
	keep  bool     // child is our own stdout or stderr
	path  string   // of the file that child is; "": none
}

// streams are stdout and stderr.
type streams [2]stream

// openStreams opens them as a [spec.Service] names them.
func openStreams(stdout, stderr string) (streams, error) {
	var all streams
	for i, service := range []struct {
		name, to string
		own      *os.File
	}{{"stdout", stdout, os.Stdout}, {"stderr", stderr, os.Stderr}} {
		one, err := openStream(service.name, service.to, service.own)
		if err != nil {
			all.closeLent()
			all.closeOurs()
			return streams{}, err
		}
		all[i] = one
	}
	return all, nil
}

func openStream(name, to string, own *os.File) (stream, error) {
	st := stream{name: name}
	var err error
	switch to {
	case "log", "":
		st.ours, st.child, err = output.OpenPipe()
	case "inherit":
		st.child, st.keep = own, true
	case "null":
		st.child, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	default:
		st.path = to
		st.child, err = output.OpenFile(to)
	}
	if err != nil {
		return stream{}, fmt.Errorf("%s: %w", name, err)
	}
	return st, nil
}

func (all *streams) lendEnds() process.Stdio {
	return process.Stdio{Out: all[0].child, Err: all[1].child}
}

// outputFile is a file as it was opened.
type outputFile struct {
	path string
	info os.FileInfo
}

// listFiles tells the files among the streams.
func (all *streams) listFiles() (files []outputFile) {
	for i := range all {
		if st := &all[i]; st.path != "" {
			info, _ := st.child.Stat() // nil is no file's
			files = append(files, outputFile{st.path, info})
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
		if st := &all[i]; st.child != nil && !st.keep {
			_ = st.child.Close()
			st.child = nil
		}
	}
}

// closeOurs closes the ends that are not copied from.
func (all *streams) closeOurs() {
	for i := range all {
		if st := &all[i]; st.ours != nil {
			_ = st.ours.Close()
			st.ours = nil
		}
	}
}

// pumps copy a program's output to the log.
type pumps []*output.Pump

func (all *streams) startPumps(sink *output.Sink, service string, pid int) pumps {
	var running pumps
	for _, st := range all {
		if st.ours != nil {
			running = append(running, sink.StartPump(st.ours, service, st.name, pid))
		}
	}
	return running
}

// waitAll waits until everything the program printed is in the log. Whoever else
// may hold the pipe (a container's monitor) gets no longer than lingering.
func (ps pumps) waitAll() {
	for _, p := range ps {
		p.Finish(lingering)
	}
}

// lingering is how long output may still come after the exit.
const lingering = 100 * time.Millisecond
