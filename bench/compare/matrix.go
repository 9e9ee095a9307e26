package compare

import (
	"fmt"
	"slices"
	"time"

	"bootprof/bench"
)

// The links of the comparison.
const (
	linkLAN  = "1gbit/0.5ms"
	linkWAN  = "100mbit/20ms"
	linkSlow = "20mbit/50ms"
	linkLoss = "100mbit/20ms/1%"
	linkHalf = "50mbit/20ms" // of each of two mirrors
	linkLies = "100mbit/20ms:zone"
)

// baseTimes are boots from the local disk, roughly, by the kind of the images.
var baseTimes = map[string]time.Duration{"debian": 700 * time.Millisecond, "debian2": 700 * time.Millisecond, "large": 3 * time.Second}

// Full is the whole matrix. What is left out of a cell is slower than a relative of it in the first one.
func Full(dir string, rounds int) []Cell {
	debian, large := Images{"debian", dir}, Images{"large", dir}
	debian2 := Images{"debian2", dir}
	same := func(im Images) Images { return im }
	const minimal, heavy = "minimal Debian to multi-user.target", "1.6 GB Debian with MariaDB, nginx and LibreOffice to multi-user.target"
	some := without(cold(), "nbdkit-cow", "nbdkit-readahead", "nbdkit-retry", "on-demand")
	few := pick(some, wayLocal, wayFetchAll, "nbdkit-cache", "rclone", wayTrained, "reordered", "split", wayBootprof)
	return []Cell{
		cell(minimal, "", debian, cold(), rounds, linkWAN),
		cell(minimal, "", debian, some, rounds, linkLAN),
		cell(minimal, "", debian, some, rounds, linkSlow),
		cell(minimal, "", debian, pick(some, wayLocal, wayFetchAll, "nbdkit", wayTrained, "reordered", "split", wayBootprof), rounds, linkLoss),
		cell(minimal, "", debian, pick(some, wayLocal, wayFetchAll, wayTrained, "reordered", "split", wayBootprof), rounds, linkHalf, linkHalf),
		// The mirror that lies is the first one: desync asks the next only when one fails.
		cell(minimal+", the first of two mirrors lies", "", debian, pick(some, wayLocal, wayTrained, wayBootprof), rounds, linkLies, linkWAN),
		cell(minimal+", second boot, with what the first one left in a cache", " warm", debian, warm(same), rounds, linkWAN),
		nextBuild(cell(minimal+", the next build, with what a boot of the last one left in a cache", " from v1", debian2,
			warm(func(im Images) Images { return debian }), rounds, linkWAN), debian),
		cell(heavy, "", large, few, rounds, linkWAN),
		cell(heavy, "", large, few, rounds, linkLAN),
		cell(heavy, "", large, pick(few, wayLocal, wayTrained, wayBootprof), min(rounds, 3), linkSlow),
		cell(heavy+", second boot, with what the first one left in a cache", " warm", large,
			pick(warm(same), wayLocal, "desync-cache", wayBootprof), rounds, linkWAN),
	}
}

// Quick is what a developer looks at after a change.
func Quick(dir string, rounds int) []Cell {
	debian := Images{"debian", dir}
	const minimal = "minimal Debian to multi-user.target"
	ways := pick(cold(), wayLocal, wayFetchAll, "nbdkit-cache", wayTrained, "reordered", "split", wayBootprof)
	return []Cell{
		cell(minimal, "", debian, ways, rounds, linkWAN),
		cell(minimal, "", debian, without(ways, wayFetchAll), rounds, linkLAN),
		cell(minimal, "", debian, pick(ways, wayLocal, wayTrained, wayBootprof), rounds, linkSlow),
		cell(minimal+", second boot, with what the first one left in a cache", " warm", debian,
			pick(warm(func(im Images) Images { return im }), wayLocal, "desync-cache", wayBootprof), rounds, linkWAN),
	}
}

func cell(work, suffix string, im Images, ways []candidate, rounds int, links ...string) Cell {
	c := Cell{Work: work, Images: im, ways: ways, wanted: rounds, baseTime: baseTimes[im.Kind]}
	for _, l := range links {
		m, err := bench.ParseMirror(l)
		if err != nil {
			panic("BUG: " + err.Error())
		}
		c.Links = append(c.Links, m)
	}
	c.Name = fmt.Sprintf("%s%s %s", im.Kind, suffix, c.Link())
	if len(links) > 1 {
		c.ways = nil
		for _, w := range ways {
			c.ways = append(c.ways, mirrored(w, c.Links))
		}
	}
	return c
}

// nextBuild makes c a boot with the cache of an older build.
func nextBuild(c Cell, old Images) Cell {
	c.Old = &old
	return c
}

func pick(from []candidate, names ...string) (picked []candidate) {
	for _, c := range from {
		if slices.Contains(names, c.name) {
			picked = append(picked, c)
		}
	}
	return picked
}

func without(from []candidate, names ...string) []candidate {
	return slices.DeleteFunc(slices.Clone(from), func(c candidate) bool { return slices.Contains(names, c.name) })
}
