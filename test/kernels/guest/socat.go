package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// halfSecond is how long socat(1) stays when one side has ended, its -t.
const halfSecond = 500 * time.Millisecond

// talk is `socat - ADDRESS` of what the README's lines use: what standard input has
// goes to the address, and its end closes that direction of a stream; what comes back
// goes to standard output, until the other side ends too or nothing has come for half
// a second. For the first of it $SOCAT_TIMEOUT is waited, where a second is longer
// than on a real machine.
func talk(args []string) error {
	waitTimeout := halfSecond
	if text := os.Getenv("SOCAT_TIMEOUT"); text != "" {
		var err error
		if waitTimeout, err = time.ParseDuration(text); err != nil {
			return err
		}
	}
	if len(args) != 2 || args[0] != "-" {
		return fmt.Errorf("want - ADDRESS, not %q", args)
	}
	kind, where, _ := strings.Cut(args[1], ":")
	conn, err := net.Dial(kind, where)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.Copy(conn, os.Stdin); err != nil {
		return err
	}
	if stream, ok := conn.(interface{ CloseWrite() error }); ok && !strings.HasPrefix(kind, "udp") {
		if err := stream.CloseWrite(); err != nil {
			return err
		}
	}
	answer := make([]byte, 64<<10)
	for {
		if err := conn.SetReadDeadline(time.Now().Add(waitTimeout)); err != nil {
			return err
		}
		n, err := conn.Read(answer)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if _, err := os.Stdout.Write(answer[:n]); err != nil {
			return err
		}
		waitTimeout = halfSecond
	}
}
