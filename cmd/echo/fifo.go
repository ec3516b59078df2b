package main

import (
	"errors"
	"io"
	"os"
)

// fifo writes to standard output what arrives: a FIFO has no way back.
type fifo struct {
	server *server
	name   string
	file   *os.File
}

func openFIFO(s *server, f *os.File) (endpoint, error) {
	own, err := pollable(f)
	if err != nil {
		return nil, err
	}
	return &fifo{s, "fifo (" + f.Name() + ")", own}, nil
}

func (f *fifo) String() string { return f.name }

func (f *fifo) stop() { _ = f.file.SetReadDeadline(past) }

// serve counts no answers: bytes in a pipe have no bounds.
func (f *fifo) serve() error {
	buffer := make([]byte, maxDatagram)
	for !f.server.isStopping() {
		n, err := f.file.Read(buffer)
		if n > 0 {
			if _, err := os.Stdout.Write(buffer[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err == io.EOF:
			// Only if it was passed open for reading alone. Its next writer
			// has us started again.
			f.server.log.debugf("%s: the last writer is gone: draining", f.name)
			f.server.stop()
			return nil
		case err != nil:
			return err
		}
	}
	return nil
}
