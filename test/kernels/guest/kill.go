package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"activator/test/kernels/plan"
)

// killActivator: killed with its service running, the activator leaves no process
// and no mount behind, and the next one takes the paths again.
func (r *run) killActivator(record *plan.Record) error {
	record.Want = 2
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	before := programs()
	a, err := startActivator(echoConfig)
	if err != nil {
		return err
	}
	line := "echo hello | socat - unix:$HOME/echo_stream_sock"
	if err := r.ask(line); err != nil {
		return errors.Join(err, a.stop())
	}
	if _, err := a.pid(1); err != nil {
		return err
	}
	a.kill()
	record.Got++
	for deadline := time.Now().Add(waitTimeout); ; time.Sleep(10 * time.Millisecond) {
		left := notIn(programs(), before)
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("left behind after kill -9: %s", strings.Join(left, ", "))
		}
	}
	now, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if string(now) != string(mounts) {
		return fmt.Errorf("mounts before:\n%sand after kill -9:\n%s", mounts, now)
	}
	if a, err = startActivator(echoConfig); err != nil {
		return err
	}
	if err := r.ask(line); err != nil {
		return errors.Join(err, a.stop())
	}
	record.Got++
	if err := a.stop(); err != nil {
		return err
	}
	return r.seeNoNode()
}

// programs are the processes that have a program, "pid command line" -> true.
// The kernel's own have none.
func programs() map[string]bool {
	found := make(map[string]bool)
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is well formed
	for _, path := range paths {
		if text, err := os.ReadFile(path); err == nil && len(text) > 0 {
			found[filepath.Base(filepath.Dir(path))+" "+strings.ReplaceAll(string(text), "\x00", " ")] = true
		}
	}
	return found
}

func notIn(now, before map[string]bool) (left []string) {
	for p := range now {
		if !before[p] {
			left = append(left, p)
		}
	}
	return left
}
