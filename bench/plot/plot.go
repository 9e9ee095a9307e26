// Package plot draws dot plots as SVG: a row for each thing that is compared, a dot for each figure on a logarithmic scale, its
// spread as a line through the dot.
//
// It is written by hand because these are all the plots there are: gonum/plot would bring its font, PDF and image libraries into
// the module for them. A logarithmic scale has no zero, so there are no bars, whose length would say nothing.
package plot

import (
	"encoding/xml"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Dots is one plot.
type Dots struct {
	Title    string
	Subtitle string
	Panels   []Panel  // side by side, with the same rows
	Rows     []string // labels
	Series   []string // names of the series, for a legend; nil for none
}

// A Panel is one scale.
type Panel struct {
	Label  string // of the scale, with its unit
	Points []Point
	Lines  []Line
}

// A Point is one figure.
type Point struct {
	Row, Series int
	X           float64 // > 0
	Min, Max    float64 // its spread; 0 for none
	Label       string  // beside the dot
	Failed      bool    // no dot: Label alone, at the left of the panel
}

// A Line is a vertical line through all rows.
type Line struct {
	X     float64
	Label string
}

// colors of the series, which people with the usual kinds of colour blindness tell apart (Okabe and Ito).
var colors = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000"}

// Sizes in pixels.
const (
	rowHeight  = 24
	panelWidth = 420
	panelGap   = 40
	labelRoom  = 130 // right of the last dot
	topMargin  = 64
	bottom     = 48
	charWidth  = 7.8 // of a label at 13 px, on average, rather more than less
	legendRoom = 36  // of a series besides its name
)

// SVG returns the plot.
func (d Dots) SVG() string {
	left := 20.0
	for _, r := range d.Rows {
		left = max(left, float64(len(r))*charWidth+24)
	}
	legend := 0
	if len(d.Series) > 0 {
		legend = 32
	}
	width := left + float64(len(d.Panels))*(panelWidth+labelRoom+panelGap)
	legendWidth := 16.0
	for _, s := range d.Series {
		legendWidth += float64(len(s))*charWidth + legendRoom
	}
	width = max(width, legendWidth, 32+float64(len(d.Title))*charWidth*16/13)
	top := float64(topMargin + legend)
	height := top + float64(len(d.Rows)*rowHeight) + bottom
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" viewBox="0 0 %.0f %.0f" font-family="sans-serif" font-size="13">`+"\n",
		width, height, width, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/>`+"\n")
	text(&b, 16, 24, "start", "#000", `font-size="16" font-weight="bold"`, d.Title)
	text(&b, 16, 44, "start", "#555", "", d.Subtitle)
	x := 22.0
	for i, s := range d.Series {
		fmt.Fprintf(&b, `<circle cx="%.1f" cy="%d" r="5" fill="%s"/>`+"\n", x, topMargin, colors[i%len(colors)])
		text(&b, x+10, topMargin+4, "start", "#000", "", s)
		x += float64(len(s))*charWidth + legendRoom
	}
	for i, r := range d.Rows {
		y := top + (float64(i)+0.5)*rowHeight
		text(&b, left-12, y+4, "end", "#000", "", r)
	}
	for i, p := range d.Panels {
		p.draw(&b, left+float64(i)*(panelWidth+labelRoom+panelGap), top, len(d.Rows))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// draw draws a panel whose left upper corner is at x0, y0.
func (p Panel) draw(b *strings.Builder, x0, y0 float64, rows int) {
	lo, hi := p.limits()
	at := func(x float64) float64 {
		return x0 + panelWidth*(math.Log10(x)-math.Log10(lo))/(math.Log10(hi)-math.Log10(lo))
	}
	y1 := y0 + float64(rows*rowHeight)
	for i := range rows {
		y := y0 + (float64(i)+0.5)*rowHeight
		fmt.Fprintf(b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#eee"/>`+"\n", x0, y, x0+panelWidth, y)
	}
	for _, t := range ticks(lo, hi) {
		fmt.Fprintf(b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#ccc"/>`+"\n", at(t), y0, at(t), y1+4)
		text(b, at(t), y1+18, "middle", "#333", `font-size="11"`, strconv.FormatFloat(t, 'g', -1, 64))
	}
	text(b, x0+panelWidth/2, y1+38, "middle", "#333", "", p.Label)
	for _, l := range p.Lines {
		fmt.Fprintf(b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#a00" stroke-dasharray="4 3"/>`+"\n", at(l.X), y0-4, at(l.X), y1)
		text(b, at(l.X), y0-8, "middle", "#a00", `font-size="11"`, l.Label)
	}
	for _, pt := range p.Points {
		y := y0 + (float64(pt.Row)+0.5)*rowHeight
		if pt.Failed {
			text(b, x0+6, y+4, "start", "#a00", halo, pt.Label)
			continue
		}
		c := colors[pt.Series%len(colors)]
		right := at(pt.X)
		if pt.Min > 0 && pt.Max > pt.Min {
			fmt.Fprintf(b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="2"/>`+"\n", at(pt.Min), y, at(pt.Max), y, c)
			right = at(pt.Max)
		}
		fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="5" fill="%s"/>`+"\n", at(pt.X), y, c)
		if pt.Label != "" {
			text(b, right+10, y+4, "start", "#333", `font-size="11" `+halo, pt.Label)
		}
	}
}

// halo keeps a label readable on a grid line.
const halo = `paint-order="stroke" stroke="white" stroke-width="3"`

// limits are the ends of the scale, a little beyond the figures.
func (p Panel) limits() (lo, hi float64) {
	lo, hi = math.Inf(1), 0
	add := func(x float64) {
		if x > 0 {
			lo, hi = min(lo, x), max(hi, x)
		}
	}
	for _, pt := range p.Points {
		if !pt.Failed {
			add(pt.X)
			add(pt.Min)
			add(pt.Max)
		}
	}
	for _, l := range p.Lines {
		add(l.X)
	}
	if hi == 0 {
		return 0.1, 10
	}
	lo, hi = lo/1.25, hi*1.25
	for hi/lo < 10 { // at least a decade, or noise looks like a difference
		lo, hi = lo/1.1, hi*1.1
	}
	return lo, hi
}

// ticks are 1, 2 and 5 of each decade; over more than three decades only 1.
func ticks(lo, hi float64) (at []float64) {
	steps := []float64{1, 2, 5}
	if hi/lo > 1000 {
		steps = steps[:1]
	}
	for e := math.Floor(math.Log10(lo)); e <= math.Ceil(math.Log10(hi)); e++ {
		for _, s := range steps {
			t, _ := strconv.ParseFloat(fmt.Sprintf("%ge%d", s, int(e)), 64) // exact, for the label
			if t >= lo && t <= hi {
				at = append(at, t)
			}
		}
	}
	return at
}

func text(b *strings.Builder, x, y float64, anchor, color, more, s string) {
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s" %s>`, x, y, anchor, color, more)
	_ = xml.EscapeText(b, []byte(s)) // a Builder takes all
	b.WriteString("</text>\n")
}
