package main

import (
	_ "embed"
	"fmt"
	"io"
	"math"
	"os"
	"text/tabwriter"
	"text/template"
)

func (r *report) print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	defer func() { _ = w.Flush() }()
	fmt.Fprintf(w, "row\tkernel ns\tspace ns\tratio\tpairs from\tto\tto reach\t\t\n")
	for _, x := range r.Results {
		reach, mark := "-", ""
		if x.Least > 0 {
			reach = fmt.Sprintf("%.2f", x.Least)
			if x.Ratio < x.Least {
				mark = "below"
			}
		}
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.2f\t%.2f\t%.2f\t%s\t%s\t\n", x.Row, x.Kernel, x.Space, x.Ratio, x.Worst, x.Best, reach, mark)
	}
	if len(r.Growth) > 0 {
		fmt.Fprintf(w, "\t\t\t\t\t\t\t\nwith\tcall\tkernel ns\tspace ns\t\t\t\t\n")
		for _, g := range r.Growth {
			fmt.Fprintf(w, "%d %s\t%s\t%.1f\t%.1f\t\t\t\t\n", g.Size, g.Of, g.Call, g.Kernel, g.Space)
		}
	}
	if f := r.Space; f != nil {
		fmt.Fprintf(w, "\t\t\t\t\t\t\t\nbytes of tmpfs: empty space\tsession\tset\tqueue\t\t\t\t\n%d\t%d\t%d\t%d\t\t\t\t\n", f.EmptySpace, f.Session, f.Set, f.Queue)
		fmt.Fprintf(w, "\t\t\t\t\t\t\t\nmanager: sessions\tMiB resident\tregistrations/s\tCPU us each\tidle CPU\t\t\t\n")
		for _, m := range f.Manager {
			fmt.Fprintf(w, "%d\t%.1f\t%.0f\t%.0f\t%.4f\t\t\t\n", m.Sessions, float64(m.RSS)/(1<<20), m.Rate, m.Register/1000, m.Idle)
		}
	}
}

//go:embed plot.svg.tmpl
var plotText string

// bar is one row of the plot, in its coordinates.
type bar struct {
	Label, Text string
	Y           int
	Left, Width float64 // from ratio 1 to the ratio
	Good        bool
	Least       float64 // where the ratio to reach is; 0: nowhere
}

// tick is a line at a ratio.
type tick struct {
	X    float64
	Text string
}

type plot struct {
	Height int
	Bars   []bar
	Ticks  []tick
	One    float64
}

// Coordinates of the plot: ratios are on a logarithmic scale.
const (
	plotLeft, plotRight = 190.0, 760.0
	ratioMin, ratioMax  = 0.01, 300.0
	barStep, barTop     = 20, 40
)

func plotX(ratio float64) float64 {
	ratio = min(max(ratio, ratioMin), ratioMax)
	x := math.Log(ratio/ratioMin) / math.Log(ratioMax/ratioMin)
	return math.Round((plotLeft+x*(plotRight-plotLeft))*10) / 10
}

// writeSVG plots how many times faster a space is, row by row.
func writeSVG(path string, results []result) error {
	t, err := template.New("plot").Parse(plotText)
	if err != nil {
		return err
	}
	p := plot{One: plotX(1)}
	for _, ratio := range []float64{0.01, 0.1, 1, 10, 100} {
		p.Ticks = append(p.Ticks, tick{plotX(ratio), fmt.Sprintf("%g", ratio)})
	}
	for i, r := range results {
		x := plotX(r.Ratio)
		b := bar{
			Label: r.Row, Text: fmt.Sprintf("%.3g", r.Ratio), Y: barTop + i*barStep,
			Left: min(x, p.One), Width: max(math.Abs(x-p.One), 1), Good: r.Ratio >= max(r.Least, math.SmallestNonzeroFloat64),
		}
		if r.Least > 0 {
			b.Least = plotX(r.Least)
		}
		p.Bars = append(p.Bars, b)
	}
	p.Height = barTop + len(results)*barStep + 30
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := t.Execute(f, p); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
