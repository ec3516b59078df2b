package measure

import (
	"activator/bench/report"
	"activator/bench/stats"
)

var tail = Measurement{
	Name:  "tail",
	Title: "The slowest of a thousand",
	How: `A thousand cold starts, as above. systemd-socket-activate takes turns with us: what its curve shows at its end is the
machine's own noise.`,
	Run: runTail,
}

func runTail(b *Bench, p *report.Part) error {
	table := report.Table{Unit: "ms", Base: bare, Picture: report.Distribution}
	table.Rows = b.alternate(b.rounds(1000), []contender{
		{oursWarm, true, ours(asSelf, true, "")},
		{bare, false, peer(asSelf, echoOnce...)},
	})
	p.Tables = append(p.Tables, table)
	warm := table.Row(oursWarm)
	m := measured{absent: warm.Absent}
	if s := stats.Of(warm.Values); s.N > 0 {
		m = measured{value: s.P99 / s.Median}
	}
	p.Goals = append(p.Goals, atMost("99th percentile of warm activations to their median", "", 2, m))
	return nil
}
