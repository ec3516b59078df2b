package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"activator/test/kernels/plan"
)

// run is what one user does.
type run struct {
	plan.Plan
	user string
}

// runUser takes the plan's steps. A step that goes wrong is a record, no error.
func runUser(user string) error {
	p, err := readPlan()
	if err != nil {
		return err
	}
	r := &run{Plan: p, user: user}
	steps := map[string]func(*plan.Record) error{
		plan.Doctor: r.seeDoctor, plan.Check: r.checkConfig, plan.Lines: r.askLines, plan.Bind: r.askBound, plan.Proxy: r.askCarried,
		plan.Idle: r.stopIdle, plan.Kill: r.killActivator, plan.Escape: r.runEscape, plan.Packages: r.runPackages,
	}
	for _, name := range p.Steps {
		take := steps[name]
		if words, refused := p.Refused[user]; refused {
			if !plan.SaysRefusal(name) {
				continue
			}
			take = func(record *plan.Record) error { return r.seeRefusal(record, words) }
		}
		record := plan.Record{User: user, Step: name}
		start := time.Now()
		if err := take(&record); err != nil {
			record.Said = append(record.Said, err.Error())
		}
		record.Seconds = time.Since(start).Seconds()
		fmt.Println(record.Format())
	}
	return nil
}

// seeDoctor: the doctor finds that the default sandbox works.
func (r *run) seeDoctor(record *plan.Record) error {
	return r.succeed(record, "doctor")
}

// checkConfig: check finds nothing wrong with what is run afterwards.
func (r *run) checkConfig(record *plan.Record) error {
	return r.succeed(record, "check", "-v", "--config", echoConfig)
}

func (r *run) succeed(record *plan.Record, args ...string) error {
	record.Want = 1
	out, err := exec.Command(built("activator"), args...).CombinedOutput()
	fmt.Printf("%s", out)
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	record.Got = 1
	return nil
}

// seeRefusal: doctor, check and a start say no, and how to cure it.
func (r *run) seeRefusal(record *plan.Record, words []string) error {
	args := map[string][]string{plan.Doctor: {"doctor"}, plan.Check: {"check", "--config", echoConfig}, plan.Lines: {"--config", echoConfig}}[record.Step]
	record.Want = 1
	cmd := exec.Command(built("activator"), args...)
	end := time.AfterFunc(waitTimeout, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer end.Stop()
	out, err := cmd.CombinedOutput()
	fmt.Printf("%s", out)
	if err == nil {
		return fmt.Errorf("%s: not refused: %s", strings.Join(args, " "), out)
	}
	for _, w := range words {
		if !strings.Contains(string(out), w) {
			return fmt.Errorf("%s: %w, without the word %q: %s", strings.Join(args, " "), err, w, out)
		}
	}
	record.Got = 1
	return nil
}

var echoConfig = filepath.Join(plan.Home, "configs/echo.toml")

// readmeLines are the lines that the README has its reader type.
func readmeLines() (lines []string, err error) {
	text, err := os.ReadFile(filepath.Join(plan.Home, "README.md"))
	if err != nil {
		return nil, err
	}
	for _, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(line, "echo hello | socat - ") {
			lines = append(lines, line)
		}
	}
	if len(lines) != 5 {
		return nil, fmt.Errorf("the README has %d lines with socat, want 5", len(lines))
	}
	return lines, nil
}

// ask types a line into a shell, and wants hello back.
func (r *run) ask(line string) error {
	cmd := exec.Command("/bin/sh", "-c", line)
	cmd.Env = append(os.Environ(), "SOCAT_TIMEOUT="+r.SocatTimeout.String())
	start := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "hello\n" {
		return fmt.Errorf("%s: printed %q after %v (%v)", line, out, time.Since(start).Round(time.Millisecond), err)
	}
	return nil
}

// askLines: the README's five lines, each against a service that does not run, and
// then all against the one that does.
func (r *run) askLines(record *plan.Record) error {
	lines, err := readmeLines()
	if err != nil {
		return err
	}
	if r.Lines < len(lines) { // without IPv6
		lines = slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, "[::1]") })
	}
	record.Want = 2 * r.Lines
	a, err := startActivator(echoConfig)
	if err != nil {
		return err
	}
	count := func(when, line string) {
		if err := r.ask(line); err != nil {
			record.Said = append(record.Said, when+": "+err.Error())
			return
		}
		record.Got++
	}
	for i, line := range lines {
		count("cold", line)
		pid, err := a.pid(i + 1)
		if err != nil {
			return err
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return fmt.Errorf("kill %d: %w", pid, err)
		}
		if _, err := a.wait(i+2, "state=listening"); err != nil {
			return err
		}
	}
	for _, line := range lines {
		count("warm", line)
	}
	if err := a.stop(); err != nil {
		return err
	}
	if len(record.Said) > 0 {
		fmt.Println(a.log())
	}
	return r.seeNoNode()
}

// seeNoNode: what the activator made is gone with it.
func (r *run) seeNoNode() error {
	node := filepath.Join(os.Getenv("HOME"), "echo_stream_sock")
	if _, err := os.Lstat(node); !os.IsNotExist(err) {
		return fmt.Errorf("%s is left behind: %v", node, err)
	}
	return nil
}

// askBound: a program that binds itself is answered with the host's sockets.
func (r *run) askBound(record *plan.Record) error { return r.askProgram(record, "bind") }

// askCarried: the clients' bytes are carried to a program that binds itself.
func (r *run) askCarried(record *plan.Record) error { return r.askProgram(record, "proxy") }

const programConfig = `[[socket]]
listen = ["tcp4://127.0.0.1:3081"]
target = "tcp4://:81"
[[socket]]
listen = ["udp4://127.0.0.1:3081"]
target = "udp4://:81"
[[socket]]
listen = ["unix://%%h/served"]
target = "unix:///tmp/served"
[service]
exec = [%q, "serve"]
handover = %q
`

func (r *run) askProgram(record *plan.Record, handover string) error {
	config, err := configure(handover, fmt.Sprintf(programConfig, built("guest"), handover))
	if err != nil {
		return err
	}
	a, err := startActivator(config)
	if err != nil {
		return err
	}
	for _, address := range []string{"udp4:127.0.0.1:3081", "tcp4:127.0.0.1:3081", "unix:$HOME/served", "udp4:127.0.0.1:3081"} {
		record.Want++
		if err := r.ask("echo hello | socat - " + address); err != nil {
			record.Said = append(record.Said, err.Error())
			continue
		}
		record.Got++
	}
	err = a.stop()
	if len(record.Said) > 0 {
		fmt.Println(a.log())
	}
	return err
}

// stopIdle: no client is there, the service is stopped, and the next client wakes it.
func (r *run) stopIdle(record *plan.Record) error {
	text, err := os.ReadFile(echoConfig)
	if err != nil {
		return err
	}
	config, err := configure("idle", strings.Replace(string(text), "../bin/echo\"]", built("echo")+"\"]\nidle_timeout = \"300ms\"", 1))
	if err != nil {
		return err
	}
	a, err := startActivator(config)
	if err != nil {
		return err
	}
	for i, line := range []string{"tcp4:127.0.0.1:3000", "udp4:127.0.0.1:3000", "unix:$HOME/echo_stream_sock"} {
		record.Want++
		if err := r.ask("echo hello | socat - " + line); err != nil {
			record.Said = append(record.Said, err.Error())
			continue
		}
		if _, err := a.wait(i+1, "state=stopping", " idle="); err != nil {
			return err
		}
		if _, err := a.wait(i+2, "state=listening"); err != nil {
			return err
		}
		record.Got++
	}
	return a.stop()
}
