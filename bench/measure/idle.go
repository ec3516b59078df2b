package measure

import (
	"errors"
	"fmt"
	"time"

	"activator/bench/report"
	"activator/bench/stand"
)

var idle = Measurement{
	Name:  "idle",
	Title: "One idle service",
	How: `One service that nobody asks for, its next sandbox standing: the memory of each of our processes (PSS, of
smaps_rollup) and the context switches of all of them in ten seconds, after they have come to rest.`,
	Run: runIdle,
}

const mebibyte = 1024.0 // KiB

func runIdle(b *Bench, p *report.Part) error {
	opened, err := ours(asSelf, true, "")(b)
	if err != nil {
		return err
	}
	defer opened.close()
	a := opened.(*ourActivation).process
	if _, err := a.Next("state=warm "); err != nil {
		return err
	}
	pids := []int{a.PID(), stand.Guard(a.PID()), stand.Stage(a.PID())}
	if err := rest(pids[0]); err != nil {
		return err
	}
	memory := report.Table{Title: "Memory", Unit: "PSS, MiB", Picture: report.Bars}
	for i, name := range []string{"activator", "guard", "sandbox that waits"} {
		memory.Rows = append(memory.Rows, memoryOf(name, pids[i]))
	}
	p.Tables = append(p.Tables, memory)
	p.Goals = append(p.Goals,
		atMost("one idle service: the activator's memory", "MiB", 8, only(memory.Rows[0])),
		atMost("one idle service: a waiting sandbox's memory", "MiB", 3, only(memory.Rows[2])))

	before, err := switchesOf(pids)
	if err != nil {
		return err
	}
	time.Sleep(10 * time.Second)
	after, err := switchesOf(pids)
	if err != nil {
		return err
	}
	row := report.Row{Case: "all three", Ours: true, Values: []float64{float64(after - before)}}
	p.Tables = append(p.Tables, report.Table{Title: "Silence", Unit: "context switches in 10 s", Rows: []report.Row{row}})
	p.Goals = append(p.Goals, atMost("one idle service: context switches in 10 s", "switches", 0, only(row)))
	return nil
}

func memoryOf(name string, pid int) report.Row {
	r := report.Row{Case: name, Ours: true}
	if pid == 0 {
		r.Absent = "there is no such process"
		return r
	}
	kib, err := stand.PSS(pid)
	if err != nil {
		r.Absent = reason(err)
		return r
	}
	r.Values = []float64{round3(kib / mebibyte)}
	return r
}

// only is a row's one value.
func only(r report.Row) measured {
	if len(r.Values) != 1 {
		return measured{absent: r.Case + ": " + r.Absent}
	}
	return measured{value: r.Values[0]}
}

func switchesOf(pids []int) (int, error) {
	sum := 0
	for _, pid := range pids {
		n, err := stand.Switches(pid)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// rest waits until a process has been quiet for a second: the runtime's collector
// ends its work some time after the last allocation.
func rest(pid int) error {
	last := -1
	for range 60 {
		now, err := stand.Switches(pid)
		if err != nil {
			return err
		}
		if now == last {
			return nil
		}
		last = now
		time.Sleep(time.Second)
	}
	return errors.New(fmt.Sprint("process ", pid, " does not come to rest"))
}
