package main

import (
	"fmt"
	"io"
)

// logger writes lines without a time: whoever reads them knows it.
type logger struct {
	to    io.Writer
	debug bool
}

func (l *logger) warnf(format string, args ...any) {
	fmt.Fprintf(l.to, "echo: "+format+"\n", args...)
}

func (l *logger) debugf(format string, args ...any) {
	if l.debug {
		l.warnf(format, args...)
	}
}
