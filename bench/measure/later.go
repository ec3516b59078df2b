package measure

import "activator/bench/report"

func none(b *Bench, p *report.Part) error { return errNoRoot }

var (
	thousand = Measurement{Name: "thousand", Title: "T", Run: none}
	running  = Measurement{Name: "running", Title: "T", Run: none}
	udp      = Measurement{Name: "udp", Title: "T", Run: none}
	bind     = Measurement{Name: "bind", Title: "T", Run: none}
	proxy    = Measurement{Name: "proxy", Title: "T", Run: none}
	accept   = Measurement{Name: "accept", Title: "T", Run: none}
)
