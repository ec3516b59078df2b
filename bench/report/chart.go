package report

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"activator/bench/stats"
)

var (
	oursColor  = color.RGBA{R: 0x1f, G: 0x77, B: 0xb4, A: 0xff}
	peersColor = color.RGBA{R: 0xb0, G: 0xb0, B: 0xb0, A: 0xff}
	lineColor  = color.RGBA{R: 0x40, G: 0x40, B: 0x40, A: 0xff}
	gridColor  = color.RGBA{R: 0xd4, G: 0xd4, B: 0xd4, A: 0xff}
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
	if goals := r.goals(); goals.drawn() {
		name := strings.TrimSuffix(goalsPicture, ".svg") + extension
		if err := goals.draw("Goals: blue is met, grey is missed", filepath.Join(folder, name)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
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

// goalsPicture is the file of the picture of all goals.
const goalsPicture = "goals.svg"

// goals is a table of what was measured of each goal, in percent of its bound: what
// is at most 100 is met.
func (r Result) goals() Table {
	t := Table{Unit: "measured, in % of the bound (at most 100: met)", Picture: Bars}
	for _, p := range r.Parts {
		for _, g := range p.Goals {
			row := Row{Case: g.Text, Ours: g.Verdict() == "met"}
			switch {
			case g.Value == nil || g.Bound == 0:
				continue
			case g.Least && *g.Value <= 0:
				continue
			case g.Least:
				row.Values = []float64{100 * g.Bound / *g.Value}
			default:
				row.Values = []float64{100 * *g.Value / g.Bound}
			}
			t.Rows = append(t.Rows, row)
		}
	}
	return t
}

func (t Table) draw(title, path string) error {
	p := plot.New()
	p.Title.Text = title
	p.Title.Padding = vg.Points(8)
	for _, style := range []*text.Style{&p.Title.TextStyle, &p.X.Label.TextStyle, &p.Y.Label.TextStyle,
		&p.X.Tick.Label, &p.Y.Tick.Label, &p.Legend.TextStyle} {
		style.Font.Variant = "Sans"
	}
	p.X.Label.TextStyle.Font.Size = vg.Points(10)
	p.Y.Label.TextStyle.Font.Size = vg.Points(10)
	p.Legend.TextStyle.Font.Size = vg.Points(10)
	p.Legend.Padding = vg.Points(3)
	p.X.Tick.Marker, p.Y.Tick.Marker = even{}, even{}
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
		height = 4*vg.Centimeter + vg.Length(len(rows))*0.5*vg.Centimeter
		err = steps(p, rows)
	default:
		err = bars(p, rows, t.Picture == LogBars)
	}
	if err != nil {
		return err
	}
	return save(p, height, path)
}

// save leaves a margin: the library puts text right to the edge.
func save(p *plot.Plot, height vg.Length, path string) error {
	canvas, err := draw.NewFormattedCanvas(width, height, strings.TrimPrefix(filepath.Ext(path), "."))
	if err != nil {
		return err
	}
	whole := draw.New(canvas)
	whole.SetColor(color.White)
	whole.Fill(whole.Rectangle.Path())
	p.Draw(draw.Crop(whole, vg.Points(10), vg.Points(-20), vg.Points(6), vg.Points(-6)))
	var picture bytes.Buffer
	if _, err := canvas.WriteTo(&picture); err != nil {
		return err
	}
	// A reader without this font has one that is as wide.
	svg := bytes.ReplaceAll(picture.Bytes(), []byte("font-family:Liberation Sans;"), []byte("font-family:'Liberation Sans',Arial,Helvetica,sans-serif;"))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, svg, 0o644)
}

// even is about six ticks at 1, 2 or 5 times a power of ten.
type even struct{}

// Ticks returns the ticks between two values.
func (even) Ticks(from, to float64) []plot.Tick {
	if to <= from {
		return nil
	}
	rough := (to - from) / 6
	step := math.Pow(10, math.Floor(math.Log10(rough)))
	for _, factor := range []float64{1, 2, 5, 10} {
		if step*factor >= rough {
			step *= factor
			break
		}
	}
	var ticks []plot.Tick
	for n := math.Ceil(from / step); n*step <= to*(1+1e-9); n++ {
		ticks = append(ticks, plot.Tick{Value: n * step, Label: strconv.FormatFloat(n*step, 'g', 6, 64)})
	}
	return ticks
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
	medians, err := plotter.NewLabels(labels)
	if err != nil {
		return err
	}
	for i := range medians.TextStyle {
		medians.TextStyle[i].YAlign = draw.YCenter
		medians.TextStyle[i].Font.Variant = "Sans"
	}
	p.Add(medians)
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
	p.Legend.Top, p.Legend.Left, p.Legend.XOffs = true, true, vg.Points(10)
	// Room above the bar for the legend.
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = 0, at*1.02, -0.6, 0.8+0.5*float64(len(rows))
	return nil
}
