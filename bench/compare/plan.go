package compare

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"

	"bootprof/bench"
	"bootprof/bench/link"
)

// A Cell is one table: ways that boot one kind of image over one kind of link.
type Cell struct {
	Name     string         // of files and titles: "debian 100mbit/20ms"
	Work     string         // what is booted, in words
	Images   Images         // what is booted
	Old      *Images        // the build whose cache is used, nil if there is no other
	Links    []bench.Mirror // several: mirrors
	ways     []candidate
	wanted   int   // rounds, before the budget
	rounds   []int // of each way
	baseTime time.Duration
}

// Link is the cell's link in words: "100mbit/20ms", "50mbit/20ms + 50mbit/20ms:zone".
func (c Cell) Link() string {
	var s []string
	for _, m := range c.Links {
		s = append(s, m.String())
	}
	return strings.Join(s, " + ")
}

// right are the links to mirrors that bring the boot right bytes.
func (c Cell) right() (links []link.Params) {
	for _, m := range c.Links {
		if m.Lie == "" || m.Lie == bench.LieOnce {
			links = append(links, m.Link)
		}
	}
	return links
}

const (
	// runOverhead is what a run takes besides the boot: caches, link, server, the end of the guest.
	runOverhead = 2 * time.Second
	// requestTime is what a request costs besides its round trip: server, client, file system.
	requestTime = 2 * time.Millisecond
	// minRounds are left to each way when time runs out.
	minRounds = 1
)

// expect is what one run of the way will take, roughly.
func (c Cell) expect(w candidate) time.Duration {
	k := w.cost[c.Images.Kind]
	bits := 1.0
	for _, p := range c.right() {
		bits += p.MathisBits()
	}
	boot := c.baseTime + time.Duration(k.requests)*(c.Links[0].Link.RTT+requestTime) + time.Duration(k.megabytes*8e6/bits*float64(time.Second))
	return boot + runOverhead
}

// total is what the cell takes with its rounds.
func (c Cell) total() time.Duration {
	t := linkCheckTime * time.Duration(len(c.Links))
	for i, w := range c.ways {
		t += c.expect(w) * time.Duration(c.rounds[i])
	}
	return t
}

const linkCheckTime = 5 * time.Second

// share gives all ways of all cells their rounds, as many as wanted, and then takes rounds away until the sum fits the budget:
// each time from the way that takes the most time in all, so that what is slow and therefore far from its neighbours is measured
// less often. Baselines, bootprof and its trained peer keep theirs. The error tells that it does not fit even so.
func share(cells []Cell, budget time.Duration) (total time.Duration, err error) {
	for i := range cells {
		c := &cells[i]
		c.rounds = make([]int, len(c.ways))
		for k := range c.ways {
			c.rounds[k] = c.wanted
		}
		total += c.total()
	}
	for total > budget {
		var most time.Duration
		var cell *Cell
		var way int
		for i := range cells {
			for k, w := range cells[i].ways {
				n := cells[i].rounds[k]
				if n <= minRounds || isKept(w) {
					continue
				}
				if t := cells[i].expect(w) * time.Duration(n); t > most {
					most, cell, way = t, &cells[i], k
				}
			}
		}
		if cell == nil {
			return total, fmt.Errorf("the comparison takes %v at least, the budget is %v: give --only, fewer --rounds or more --budget",
				total.Round(time.Second), budget)
		}
		cell.rounds[way]--
		total -= cell.expect(cell.ways[way])
	}
	return total, nil
}

func isKept(w candidate) bool {
	return w.name == wayLocal || w.name == wayBootprof || w.name == wayTrained || w.name == "desync-cache"
}

// benchWays makes the ways of a cell, each with its rounds.
func (c Cell) benchWays(p programs) (ways []bench.Way) {
	for i, w := range c.ways {
		made := w.make(p, c.Images)
		made.Rounds = c.rounds[i]
		ways = append(ways, made)
	}
	return ways
}

// Only leaves the ways whose "CELL WAY" matches, and the baseline with them.
func Only(cells []Cell, match *regexp.Regexp) (left []Cell) {
	for _, c := range cells {
		var ways []candidate
		matched := false
		for _, w := range c.ways {
			m := match.MatchString(c.Name + " " + w.name)
			if m || w.name == wayLocal {
				ways = append(ways, w)
			}
			matched = matched || m
		}
		if matched {
			c.ways = ways
			left = append(left, c)
		}
	}
	return left
}

// writePlan prints what will be measured and how long that takes.
func writePlan(w io.Writer, cells []Cell, others []part, total time.Duration) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, c := range cells {
		var ways []string
		for i, way := range c.ways {
			ways = append(ways, fmt.Sprintf("%s %d", way.name, c.rounds[i]))
		}
		fmt.Fprintf(tw, "%s\t%v\t%s\n", c.Name, c.total().Round(time.Second), strings.Join(ways, ", "))
	}
	for _, p := range others {
		fmt.Fprintf(tw, "%s\t%v\t%s\n", p.name, p.takes, p.what)
	}
	fmt.Fprintf(tw, "planned\t%v\trounds behind the names\n", total.Round(time.Second))
	return tw.Flush()
}
