package measure

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"activator/bench/report"
	"activator/bench/stand"
	"activator/bench/stats"
)

var wakeup = Measurement{
	Name:  "wake-up",
	Title: "From wake-up to go",
	How: `One warm activation in its steps, by the kernel's own trace points (tracefs, so it takes root), which add some
microseconds. The goal is for what is between *readable*, when the kernel wakes the activator because the client is in the
queue, and the waiting sandbox's *execve(2)*. Before it is the client's, after it the program's own start.`,
	Run: runWakeup,
}

// The moments of an activation, in their order.
const (
	connects  = iota // the client calls connect(2)
	readable         // the kernel wakes a thread of the activator
	scheduled        // that thread has a processor
	gone             // the activator wrote "go" to the sandbox that waits
	execs            // the sandbox calls execve(2)
	replaced         // the kernel is done: the program's first instruction
	answered         // the client has its byte
	moments
)

// steps are what is between two moments; the name of step i is from i to i+1.
var steps = [moments - 1]string{
	"client: connect(2) until the activator is readable",
	"kernel: until the woken thread runs",
	"activator: until it wrote \"go\"",
	"sandbox: wakes up, execve(2) called",
	"kernel: execve(2) itself",
	"program: start, accept, echo",
}

func runWakeup(b *Bench, p *report.Part) error {
	if os.Getuid() != 0 {
		p.Goals = append(p.Goals, atMost(wakeupGoal, "µs", 150, measured{absent: "needs root"}))
		return errors.New("tracing needs root")
	}
	t, err := openTracer()
	if err != nil {
		p.Goals = append(p.Goals, atMost(wakeupGoal, "µs", 150, measured{absent: reason(err)}))
		return err
	}
	defer t.close()
	opened, err := ours(asSelf, true, "")(b)
	if err != nil {
		return err
	}
	defer opened.close()
	traces, err := t.activations(opened.(*ourActivation), b.rounds(200))
	if err != nil {
		return err
	}
	table := report.Table{Unit: "µs", Picture: report.Steps}
	for i, name := range steps {
		row := report.Row{Case: name, Ours: i > connects && i < execs}
		for _, m := range traces {
			row.Values = append(row.Values, m[i+1]-m[i])
		}
		table.Rows = append(table.Rows, row)
	}
	p.Tables = append(p.Tables, table)
	var whole []float64
	for _, m := range traces {
		whole = append(whole, m[execs]-m[readable])
	}
	p.Tables = append(p.Tables, report.Table{Title: "Readable to execve", Unit: "µs",
		Rows: []report.Row{{Case: "readable to the sandbox's execve(2)", Ours: true, Values: whole}}})
	p.Goals = append(p.Goals, atMost(wakeupGoal, "µs", 150, measured{value: stats.Median(whole)}))
	return nil
}

const wakeupGoal = "wake-up: readable to the sandbox's execve(2), median"

// tracer is an instance of the kernel's tracer, tracefs; see
// Documentation/trace/ftrace.rst and events.rst.
type tracer struct{ dir string }

// What is traced, and of which threads. A thread's comm is the file name of its program.
var traced = map[string]string{
	"syscalls/sys_enter_connect":    `common_pid == CLIENT`,
	"syscalls/sys_exit_read":        `common_pid == CLIENT && ret == 1`,
	"syscalls/sys_exit_epoll_pwait": `comm == "activator"`,
	"syscalls/sys_enter_write":      `count == 1 && comm == "activator"`,
	"syscalls/sys_enter_sendto":     `len == 1 && comm == "activator"`,
	"syscalls/sys_enter_execve":     "",
	"sched/sched_process_exec":      "",
	"sched/sched_waking":            `comm == "activator"`,
	"sched/sched_switch":            `next_comm == "activator"`,
}

func openTracer() (*tracer, error) {
	t := &tracer{dir: fmt.Sprintf("/sys/kernel/tracing/instances/actbench%d", os.Getpid())}
	if err := os.Mkdir(t.dir, 0o700); err != nil {
		return nil, fmt.Errorf("tracefs: %w", err)
	}
	// Of one clock for all processors, since moments of several are compared.
	if err := t.write("trace_clock", "mono"); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *tracer) write(file, text string) error {
	return os.WriteFile(filepath.Join(t.dir, file), []byte(text), 0)
}

func (t *tracer) close() {
	_ = t.write("tracing_on", "0")
	_ = os.Remove(t.dir)
}

// enable sets the filters for a client, by the number of its thread.
func (t *tracer) enable(client int) error {
	for event, filter := range traced {
		filter = strings.ReplaceAll(filter, "CLIENT", strconv.Itoa(client))
		if filter != "" {
			if err := t.write("events/"+event+"/filter", filter); err != nil {
				return err
			}
		}
		if err := t.write("events/"+event+"/enable", "1"); err != nil {
			return err
		}
	}
	return nil
}

// activations traces n activations. The moments are in microseconds. One whose
// trace is not whole is left out. More than a tenth of them is an error.
func (t *tracer) activations(a *ourActivation, n int) ([][moments]float64, error) {
	client, unlock := stand.Thread()
	defer unlock()
	if err := t.enable(client); err != nil {
		return nil, err
	}
	var whole [][moments]float64
	var last error
	for range n {
		line, err := a.process.Next(a.ready)
		if err != nil {
			return nil, err
		}
		time.Sleep(settle)
		if err := t.write("trace", ""); err != nil {
			return nil, err
		}
		if _, err := stand.FirstByte(a.port); err != nil {
			return nil, err
		}
		text, err := os.ReadFile(filepath.Join(t.dir, "trace"))
		if err != nil {
			return nil, err
		}
		_, pid, _ := strings.Cut(line, " pid=")
		m, err := parseTrace(string(text), strings.Fields(pid + " ")[0])
		if err != nil {
			last = err
			continue
		}
		whole = append(whole, m)
	}
	if len(whole) < n*9/10 {
		return nil, fmt.Errorf("%d of %d traces are not whole: %w", n-len(whole), n, last)
	}
	return whole, nil
}

// A line of a trace: TASK-PID [CPU] FLAGS SECONDS: EVENT: ...
var traceLine = regexp.MustCompile(`^\s*.+-(\d+)\s+\[\d+\]\s+\S+\s+(\d+\.\d+): (\w+)(.*)`)

// parseTrace finds the moments of the activation of a sandbox, in microseconds.
func parseTrace(text, sandbox string) ([moments]float64, error) {
	var m [moments]float64
	woken, client := "", ""
	for line := range strings.Lines(text) {
		f := traceLine.FindStringSubmatch(line)
		if f == nil {
			continue
		}
		seconds, err := strconv.ParseFloat(f[2], 64)
		if err != nil {
			continue
		}
		at := seconds * 1e6
		task, event, rest := f[1], f[3], f[4]
		set := func(moment int, is bool) {
			if is && m[moment] == 0 && (moment == 0 || m[moment-1] != 0) {
				m[moment] = at
			}
		}
		switch event {
		case "sys_connect":
			client = task
			set(connects, true)
		case "sched_waking":
			if m[connects] != 0 && woken == "" {
				woken = fieldOf(rest, "pid")
			}
			set(readable, true)
		case "sched_switch":
			set(scheduled, fieldOf(rest, "next_pid") == woken)
		case "sys_epoll_pwait": // Linux 6.18 does not always trace that the idle task makes way
			set(scheduled, task == woken)
		case "sys_write", "sys_sendto":
			set(gone, task != client && task != sandbox)
		case "sys_execve":
			set(execs, task == sandbox)
		case "sched_process_exec":
			set(replaced, fieldOf(rest, "pid") == sandbox)
		case "sys_read":
			set(answered, true)
		}
	}
	for i, at := range m {
		if at == 0 {
			return m, fmt.Errorf("moment %d is missing", i)
		}
	}
	return m, nil
}

// fieldOf is the value of key in a text of "key=value" words.
func fieldOf(text, key string) string {
	for _, word := range strings.Fields(text) {
		if value, ok := strings.CutPrefix(word, key+"="); ok {
			return value
		}
	}
	return ""
}
