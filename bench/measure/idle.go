package measure

import (
	"errors"
	"fmt"
	"os"
	"time"

	"activator/bench/report"
	"activator/bench/stand"
)

var idle = Measurement{
	Name:  "idle",
	Title: "One idle service",
	How: `One service that nobody asks for, its next sandbox standing: the memory of each of our processes (PSS, of
smaps_rollup) and the context switches of all of them in ten seconds, after they have come to rest. A sandbox that waits
runs in the activator's own memory: what it takes is what an activator with 100 of them takes more than one with
` + "`warm = false`" + `, a hundredth of it.`,
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
	pids := []int{a.PID(), stand.Guard(a.PID()), stand.Sandbox(a.PID())}
	if err := rest(pids[0]); err != nil {
		return err
	}
	memory := report.Table{Title: "Memory", Unit: "PSS, MiB", Picture: report.Bars}
	memory.Rows = append(memory.Rows, memoryOf("activator, its sandbox included", pids[0]), memoryOf("guard", pids[1]), sandboxOf(b))
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

// sandboxOf is the memory of a sandbox that waits.
func sandboxOf(b *Bench) report.Row {
	row := report.Row{Case: "sandbox that waits", Ours: true}
	const count = 100
	var kib [2]float64
	for i, warm := range []bool{false, true} {
		var err error
		if kib[i], err = memoryWith(b, count, warm); err != nil {
			row.Absent = reason(err)
			return row
		}
	}
	row.Values = []float64{round3(max(kib[1]-kib[0], 0) / count / mebibyte)}
	return row
}

func memoryWith(b *Bench, services int, warm bool) (kib float64, err error) {
	dir, err := b.Folder(stand.Self)
	if err != nil {
		return 0, err
	}
	for i := range services {
		text := fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/%d.sock\"]\n[service]\nexec = [%q]\nwarm = %v\n", dir, i, b.Program("echo"), warm)
		if err := os.WriteFile(fmt.Sprintf("%s/s%d.toml", dir, i), []byte(text), 0o644); err != nil {
			return 0, err
		}
	}
	a, err := b.ActivatorIn(stand.Self, dir)
	if err != nil {
		return 0, err
	}
	defer a.Stop()
	for range services {
		if warm {
			if _, err := a.Next("state=warm "); err != nil {
				return 0, err
			}
		}
	}
	if err := rest(a.PID()); err != nil {
		return 0, err
	}
	return stand.PSS(a.PID())
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
