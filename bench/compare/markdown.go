package compare

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"bootprof/bench"
)

// WriteMarkdown writes all tables, with the plots beside them.
func (r *Comparison) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# Side by side\n\n")
	fmt.Fprintf(&b, "%s, %s, Linux %s. Measured in %.0f minutes (planned: %.0f). docs/benchmarks.md tells how to read this and how to repeat it.\n\n",
		r.Date, r.Machine, r.Kernel, r.Took/60, r.Planned/60)
	if len(r.Cells) > 0 {
		r.writeOverview(&b)
	}
	for _, c := range r.Cells {
		c.write(&b)
	}
	if r.Herd != nil {
		r.Herd.write(&b)
	}
	if len(r.Faults) > 0 {
		fmt.Fprintf(&b, "## Faults\n\nA program reads blocks of the image through the client while something goes wrong, and compares them with the image.\n\n")
		writeFaults(&b, r.Faults)
		b.WriteString("\n")
	}
	b.WriteString("## Versions\n\n")
	for _, v := range r.Versions {
		fmt.Fprintf(&b, "- %s: %s\n", v[0], v[1])
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func row(b *strings.Builder, cells ...string) { fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | ")) }

// rule is the line below a table's head: the first column to the left, the others to the right.
func rule(b *strings.Builder, columns int) {
	b.WriteString("| ---" + strings.Repeat(" | ---:", columns-1) + " |\n")
}

// writeOverview has a row for each cell, and says where the pack is not first. Other forms of bootprof are not looked at.
func (r *Comparison) writeOverview(b *strings.Builder) {
	b.WriteString("![overview](overview.svg)\n\n")
	row(b, "boot", "T_lb s", "local s", "bootprof s", "x local", "x max(local, T_lb)", "best peer", "s", "x local", "fetch-all s")
	rule(b, 10)
	var lost []string
	for _, c := range r.Cells {
		local, ours, fetch := c.way(wayLocal), c.way(wayBootprof), c.way(wayFetchAll)
		cells := []string{c.Name, "-", figure(local, local.Total), figure(ours, ours.Total), figure(ours, ours.Ratio), "-", "-", "-", "-", figure(fetch, fetch.Total)}
		if t := c.Report.Bound; t != nil {
			cells[1] = fmt.Sprintf("%.2f", t.Seconds)
			if ours.Runs > 0 {
				cells[5] = fmt.Sprintf("%.2f", ours.Total/max(t.Seconds, local.Total))
			}
		}
		if peer, ok := c.bestPeer(); ok {
			cells[6], cells[7], cells[8] = named(peer), figure(peer, peer.Total), figure(peer, peer.Ratio)
		}
		row(b, cells...)
		lost = append(lost, c.lost()...)
	}
	b.WriteString("\n")
	if len(lost) == 0 {
		b.WriteString("Rows where the pack (bootprof) is not first, in time or in bytes, among it and the clients that are not bootprof: none.\n\n")
		return
	}
	b.WriteString("Where the pack (bootprof) is not first, in time or in bytes, among it and the clients that are not bootprof:\n\n")
	for _, l := range lost {
		fmt.Fprintf(b, "- %s\n", l)
	}
	b.WriteString("\n")
}

// way finds the figures of a way; all zero if it is not in the table.
func (c CellReport) way(name string) bench.Summary {
	for _, s := range c.Report.Summary {
		if s.Way == name {
			return s
		}
	}
	return bench.Summary{}
}

// peers are all that is not bootprof and not the local disk, and has run.
func (c CellReport) peers() (peers []bench.Summary) {
	for _, s := range c.Report.Summary {
		if s.Runs > 0 && seriesOf(s.Way) == seriesPeer {
			peers = append(peers, s)
		}
	}
	return peers
}

func (c CellReport) bestPeer() (bench.Summary, bool) {
	peers := c.peers()
	if len(peers) == 0 {
		return bench.Summary{}, false
	}
	return slices.MinFunc(peers, func(a, b bench.Summary) int { return compareFigures(a.Total, b.Total) }), true
}

// named is the way's name, with a note if its figure is no median.
func named(s bench.Summary) string {
	if s.Runs == 1 {
		return s.Way + " (one run)"
	}
	return s.Way
}

// lost says where a peer is before the pack, in time or in bytes.
func (c CellReport) lost() (lost []string) {
	ours := c.way(wayBootprof)
	if ours.Runs == 0 {
		if len(c.Report.Summary) > 0 {
			lost = append(lost, fmt.Sprintf("%s: bootprof failed: %s", c.Name, ours.Error))
		}
		return lost
	}
	for _, s := range c.peers() {
		if s.Total < ours.Total {
			lost = append(lost, fmt.Sprintf("%s: %s takes %.2f s, bootprof %.2f s", c.Name, named(s), s.Total, ours.Total))
		}
		if s.LinkBytes < ours.LinkBytes {
			lost = append(lost, fmt.Sprintf("%s: %s moves %.2f MB, bootprof %.2f MB", c.Name, named(s), float64(s.LinkBytes)/1e6, float64(ours.LinkBytes)/1e6))
		}
	}
	return lost
}

func figure(s bench.Summary, v float64) string {
	switch {
	case s.Way == "":
		return "-"
	case s.Runs == 0:
		return "failed"
	}
	return fmt.Sprintf("%.2f", v)
}

// write is the section of a cell.
func (c CellReport) write(b *strings.Builder) {
	fmt.Fprintf(b, "## %s\n\n%s.\n\n", c.Name, c.Work)
	if c.Error != "" {
		fmt.Fprintf(b, "Not (wholly) measured: %s\n\n", c.Error)
	}
	if len(c.Report.Summary) == 0 {
		return
	}
	fmt.Fprintf(b, "![%s](%s.svg)\n\n", c.Name, fileName(c.Name))
	row(b, "way", "rounds", "total s", "min-max", "x local", "x T_lb", "ready s", "MB over link", "GETs", "client MB", "client CPU s", "misses")
	rule(b, 12)
	var failures []string
	for _, s := range c.Report.Summary {
		if s.Failures > 0 {
			failures = append(failures, fmt.Sprintf("%s: %d runs failed: %s", s.Way, s.Failures, s.Error))
		}
		if s.Runs == 0 {
			row(b, append([]string{s.Way, "0", "failed"}, slices.Repeat([]string{"-"}, 9)...)...)
			continue
		}
		cells := []string{
			s.Way, fmt.Sprint(s.Runs), fmt.Sprintf("%.2f", s.Total), fmt.Sprintf("%.2f-%.2f", s.TotalMin, s.TotalMax), fmt.Sprintf("%.2f", s.Ratio), "-",
			fmt.Sprintf("%.2f", s.Ready), fmt.Sprintf("%.1f", float64(s.LinkBytes)/1e6), fmt.Sprint(s.GETs), "-", "-", "-",
		}
		if t := c.Report.Bound; t != nil {
			cells[5] = fmt.Sprintf("%.2f", s.Total/t.Seconds)
		}
		if s.RSS > 0 {
			cells[9], cells[10] = fmt.Sprintf("%.0f", float64(s.RSS)/1e6), fmt.Sprintf("%.2f", s.CPU)
		}
		if s.HasMisses {
			cells[11] = fmt.Sprint(s.Misses)
		}
		row(b, cells...)
	}
	b.WriteString("\n")
	for _, f := range failures {
		fmt.Fprintf(b, "- %s\n", f)
	}
	for _, n := range c.Report.Notes() {
		fmt.Fprintf(b, "- %s\n", n)
	}
	b.WriteString("\n")
}

// write is the section of the herd.
func (h *HerdReport) write(b *strings.Builder) {
	fmt.Fprintf(b, "## Herd\n\n%d clients that begin at the same moment, each in a network namespace of its own, behind one link of %s to one nginx. All of them, "+
		"the server and the link share this machine's processors. A bootprof client mounts the pack and reads the pages of a recorded boot in their order; a fetch-all "+
		"client downloads the squashfs with curl, which drops it.\n\n", h.Clients, h.Link)
	if h.Error != "" {
		fmt.Fprintf(b, "Not (wholly) measured: %s\n\n", h.Error)
	}
	if len(h.Runs) == 0 {
		return
	}
	b.WriteString("![herd](herd.svg)\n\n")
	row(b, "way", "clients", "first s", "median s", "last s", "MB over link", "GETs")
	rule(b, 7)
	for _, r := range h.Runs {
		row(b, r.Way, fmt.Sprint(r.Clients), fmt.Sprintf("%.2f", r.First), fmt.Sprintf("%.2f", r.Median), fmt.Sprintf("%.2f", r.Last),
			fmt.Sprintf("%.1f", float64(r.Bytes)/1e6), fmt.Sprint(r.GETs))
	}
	b.WriteString("\nLarger herds, simulated (docs/benchmarks.md has the assumptions):\n\n")
	row(b, "way", "clients", "server's link", "begin within", "median s", "last s", "GB over link")
	rule(b, 7)
	for _, s := range h.Simulated {
		row(b, s.Way, fmt.Sprint(s.Clients), fmt.Sprintf("%.0f Gbit/s", s.ServerBits/1e9), fmt.Sprintf("%.0f s", s.Window), fmt.Sprintf("%.2f", s.Median),
			fmt.Sprintf("%.1f", s.Last), fmt.Sprintf("%.1f", s.TotalBytes/1e9))
	}
	b.WriteString("\n")
}

// medians are the runs of each way and number of clients, with the median of their last clients.
func (h *HerdReport) medians() (all []HerdRun) {
	type key struct {
		way     string
		clients int
	}
	groups := map[key][]HerdRun{}
	var keys []key
	for _, r := range h.Runs {
		k := key{r.Way, r.Clients}
		if groups[k] == nil {
			keys = append(keys, k)
		}
		groups[k] = append(groups[k], r)
	}
	for _, k := range keys {
		g := groups[k]
		slices.SortFunc(g, func(a, b HerdRun) int { return compareFigures(a.Last, b.Last) })
		all = append(all, g[len(g)/2])
	}
	return all
}
