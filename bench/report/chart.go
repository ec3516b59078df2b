package report

import (
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"activator/bench/stats"
)

var (
	oursColor  = color.RGBA{R: 0x1f, G: 0x77, B: 0xb4, A: 0xff}
	peersColor = color.RGBA{R: 0xb0, G: 0xb0, B: 0xb0, A: 0xff}
	lineColor  = color.RGBA{R: 0x40, G: 0x40, B: 0x40, A: 0xff}
	gridColor  = color.RGBA{R: 0xe4, G: 0xe4, B: 0xe4, A: 0xff}
	others     = []color.RGBA{
		{R: 0xff, G: 0x7f, B: 0x0e, A: 0xff}, {R: 0x2c, G: 0xa0, B: 0x2c, A: 0xff}, {R: 0xd6, G: 0x27, B: 0x28, A: 0xff},
		{R: 0x94, G: 0x67, B: 0xbd, A: 0xff}, {R: 0x8c, G: 0x56, B: 0x4b, A: 0xff}, {R: 0x7f, G: 0x7f, B: 0x7f, A: 0xff},
	}
)

const width = 22 * vg.Centimeter

// picture is the file name of a table's picture.
func (p Part) picture(table int) string {
	if table == 0 {
		return p.Name + ".svg"
	}
	return fmt.Sprintf("%s-%d.svg", p.Name, table+1)
}

// present are the rows that have values.
func (t Table) present() []Row {
	return slices.DeleteFunc(slices.Clone(t.Rows), func(r Row) bool { return len(r.Values) == 0 })
}

func (t Table) drawn() bool { return t.Picture != "" && len(t.present()) > 0 }

// Draw draws all pictures into a folder: SVG, or what the extension says, such as
// ".png".
func (r Result) Draw(folder, extension string) error {
	for _, p := range r.Parts {
		for i, t := range p.Tables {
			if !t.drawn() {
				continue
			}
			name := p.picture(i)
			name = name[:len(name)-len(".svg")] + extension
			if err := t.draw(t.name(p), filepath.Join(folder, name)); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

func (t Table) draw(title, path string) error {
	p := plot.New()
	p.Title.Text = title
	p.Title.Padding = vg.Points(8)
	p.X.Label.Text = t.Unit
	p.BackgroundColor = color.White
	rows := t.present()
	height := 3*vg.Centimeter + vg.Length(len(rows))*0.75*vg.Centimeter
	var err error
	switch t.Picture {
	case Distribution:
		height = 9 * vg.Centimeter
		err = distribution(p, rows)
	case Steps:
		height = 4.5*vg.Centimeter + vg.Length(len(rows))*0.15*vg.Centimeter
		err = steps(p, rows)
	default:
		err = bars(p, rows, t.Picture == LogBars)
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return p.Save(width, height, path)
}

func grid(p *plot.Plot) {
	g := plotter.NewGrid()
	g.Vertical.Color, g.Horizontal.Color = gridColor, nil
	p.Add(g)
}

// bars draws the first row at the top. Each has its median written behind it.
func bars(p *plot.Plot, rows []Row, logarithmic bool) error {
	grid(p)
	var names []string
	var labels plotter.XYLabels
	least, most := math.Inf(1), 0.0
	for _, r := range rows {
		least, most = min(least, stats.Of(r.Values).Min), max(most, stats.Of(r.Values).P90)
	}
	from := 0.0
	if logarithmic {
		from = math.Pow(10, math.Floor(math.Log10(max(least, 1e-3))))
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	}
	for i, r := range rows {
		y := float64(len(rows) - 1 - i)
		s := stats.Of(r.Values)
		if err := bar(p, r, y, from, s); err != nil {
			return err
		}
		labels.XYs = append(labels.XYs, plotter.XY{X: max(s.P90, from), Y: y})
		labels.Labels = append(labels.Labels, "  "+number(s.Median))
		names = append([]string{r.Case}, names...)
	}
	text, err := plotter.NewLabels(labels)
	if err != nil {
		return err
	}
	for i := range text.TextStyle {
		text.TextStyle[i].YAlign = draw.YCenter
	}
	p.Add(text)
	p.NominalY(names...)
	p.X.Min, p.X.Max = from, most*1.12
	if logarithmic {
		p.X.Max = most * 2
	}
	p.Y.Min, p.Y.Max = -0.6, float64(len(rows))-0.4
	return nil
}

func bar(p *plot.Plot, r Row, y, from float64, s stats.Summary) error {
	box, err := plotter.NewPolygon(plotter.XYs{{X: from, Y: y - 0.32}, {X: s.Median, Y: y - 0.32}, {X: s.Median, Y: y + 0.32}, {X: from, Y: y + 0.32}})
	if err != nil {
		return err
	}
	box.Color = peersColor
	if r.Ours {
		box.Color = oursColor
	}
	box.LineStyle.Width = 0
	p.Add(box)
	if s.N < 2 {
		return nil
	}
	spread, err := plotter.NewLine(plotter.XYs{{X: max(s.Min, from), Y: y}, {X: s.P90, Y: y}})
	if err != nil {
		return err
	}
	spread.Color, spread.Width = lineColor, vg.Points(1.2)
	p.Add(spread)
	return nil
}

// distribution ends at the 99.5th percentile of the widest.
func distribution(p *plot.Plot, rows []Row) error {
	g := plotter.NewGrid()
	g.Vertical.Color, g.Horizontal.Color = gridColor, gridColor
	p.Add(g)
	p.Y.Label.Text = "share of all, %"
	peers, most := 0, 0.0
	for _, r := range rows {
		sorted := slices.Sorted(slices.Values(r.Values))
		points := make(plotter.XYs, len(sorted))
		for i, v := range sorted {
			points[i] = plotter.XY{X: v, Y: 100 * float64(i+1) / float64(len(sorted))}
		}
		most = max(most, stats.Quantile(sorted, 0.995))
		l, err := plotter.NewLine(points)
		if err != nil {
			return err
		}
		l.Width = vg.Points(1.8)
		if l.Color = oursColor; !r.Ours {
			l.Color = others[peers%len(others)]
			peers++
		}
		p.Add(l)
		p.Legend.Add(r.Case, l)
	}
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = 0, most, 0, 100
	p.Legend.XOffs, p.Legend.YOffs = vg.Points(-10), vg.Points(10)
	return nil
}

func steps(p *plot.Plot, rows []Row) error {
	at := 0.0
	palette := append([]color.RGBA{oursColor}, others...)
	for i, r := range rows {
		s := stats.Of(r.Values)
		box, err := plotter.NewPolygon(plotter.XYs{{X: at, Y: -0.4}, {X: at + s.Median, Y: -0.4}, {X: at + s.Median, Y: 0.4}, {X: at, Y: 0.4}})
		if err != nil {
			return err
		}
		box.Color = palette[i%len(palette)]
		box.LineStyle.Width = 0
		p.Add(box)
		p.Legend.Add(fmt.Sprintf("%s  %s", r.Case, number(s.Median)), box)
		at += s.Median
	}
	p.HideY()
	p.Legend.Top = true
	// Room above the bar for the legend.
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = 0, at*1.02, -0.6, 0.8+0.55*float64(len(rows))
	return nil
}
