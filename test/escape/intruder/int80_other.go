//go:build !amd64

package main

import "errors"

// int80Connect: only amd64 has the gate.
func int80Connect(*mission) (string, error) { return "", errors.New("no 32-bit gate on this machine") }
