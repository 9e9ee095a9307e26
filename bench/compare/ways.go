package compare

import (
	"time"

	"bootprof/bench"
	"bootprof/bench/link"
)

// Names of ways that are looked at by name.
const (
	wayLocal    = "local"
	wayFetchAll = "fetch-all"
	wayBootprof = bench.Trained
	wayTrained  = "desync-trained"
)

// A way's cost is what the plan expects of it, for a boot of the minimal Debian; figures of an early run, which need not be exact:
// they only share out the time. Requests are those that wait for one another.
type cost struct {
	requests  int
	megabytes float64
}

// A candidate is a way of the comparison before it is planned.
type candidate struct {
	name string
	cost map[string]cost // by the kind of the images
	ours bool
	make func(p programs, im Images) bench.Way
}

// programs are the binaries that are not found by their names alone.
type programs struct{ bootprof, desync string }

// fastLink is where caches are filled, which is not measured.
var fastLink = link.Params{Bits: 1e9, RTT: 500 * time.Microsecond}

// filledBy is w with a cache that the way fill leaves.
func filledBy(w, fill bench.Way) bench.Way {
	fill.Mirrors = []bench.Mirror{{Link: fastLink}}
	w.Fill = &fill
	return w
}

func kinds(debian, large cost) map[string]cost {
	return map[string]cost{"debian": debian, "debian2": debian, "large": large}
}

// cold are all ways of a first boot.
func cold() []candidate {
	mounted := func(name string, file func(Images) string) func(programs, Images) bench.Way {
		return func(p programs, im Images) bench.Way { return bench.Mounted(name, p.bootprof, file(im)) }
	}
	squashfs := func(peer func(image string) bench.Peer) func(programs, Images) bench.Way {
		return func(_ programs, im Images) bench.Way { return peer(im.squashfs()).Way() }
	}
	return []candidate{
		{wayLocal, kinds(cost{0, 0}, cost{0, 0}), false,
			func(_ programs, im Images) bench.Way { return bench.Local(wayLocal, im.local()) }},
		{wayFetchAll, kinds(cost{2, 177}, cost{2, 557}), false,
			func(_ programs, im Images) bench.Way { return bench.FetchAll(wayFetchAll, im.squashfs()) }},
		{"httpfs2", kinds(cost{800, 18}, cost{4000, 150}), false, squashfs(bench.Httpfs2)},
		{"httpdirfs", kinds(cost{700, 18}, cost{4000, 150}), false,
			squashfs(func(image string) bench.Peer { return bench.Httpdirfs(image, false) })},
		{"nbdkit", kinds(cost{500, 17}, cost{4000, 150}), false,
			squashfs(func(image string) bench.Peer { return bench.Nbdkit("", image, nil, nil) })},
		{"nbdkit-cache", kinds(cost{100, 90}, cost{300, 300}), false, squashfs(bench.NbdkitCache)},
		{"nbdkit-cow", kinds(cost{100, 90}, cost{300, 300}), false, squashfs(bench.NbdkitCow)},
		{"nbdkit-readahead", kinds(cost{100, 120}, cost{300, 300}), false, squashfs(bench.NbdkitReadahead)},
		{"nbdkit-retry", kinds(cost{500, 17}, cost{4000, 150}), false, squashfs(bench.NbdkitRetry)},
		{"rclone", kinds(cost{400, 60}, cost{2000, 250}), false, squashfs(bench.Rclone)},
		{"desync-cold", kinds(cost{300, 20}, cost{1500, 150}), false,
			func(p programs, im Images) bench.Way {
				return bench.Desync("desync-cold", p.desync, im.desync(), false, false).Way()
			}},
		{wayTrained, kinds(cost{60, 20}, cost{300, 110}), false,
			func(p programs, im Images) bench.Way {
				return bench.Desync(wayTrained, p.desync, im.desync(), true, false).Way()
			}},
		{"unprepared", kinds(cost{170, 25}, cost{1000, 150}), true, mounted("unprepared", Images.squashfs)},
		{"on-demand", kinds(cost{170, 11}, cost{1000, 136}), true, mounted("on-demand", Images.plainPack)},
		{"reordered", kinds(cost{3, 9}, cost{3, 90}), true, mounted("reordered", Images.reordered)},
		{"split", kinds(cost{3, 4}, cost{3, 42}), true, mounted("split", Images.split)},
		{wayBootprof, kinds(cost{3, 4}, cost{3, 42}), true, mounted(wayBootprof, Images.pack)},
	}
}

// warm are the ways that keep something from boot to boot, with what a boot of old left; im may be another build than old.
func warm(old func(im Images) Images) []candidate {
	of := func(peer func(p programs, im Images) bench.Way) func(programs, Images) bench.Way {
		return func(p programs, im Images) bench.Way { return filledBy(peer(p, im), peer(p, old(im))) }
	}
	withCache := func(name string, file func(Images) string) func(programs, Images) bench.Way {
		return of(func(p programs, im Images) bench.Way {
			return bench.Mounted(name, p.bootprof, file(im), "--cache", bench.CacheDir)
		})
	}
	return []candidate{
		{wayLocal, nil, false, func(_ programs, im Images) bench.Way { return bench.Local(wayLocal, im.local()) }},
		{"httpdirfs-cache", kinds(cost{40, 20}, cost{100, 50}), false,
			of(func(_ programs, im Images) bench.Way { return bench.Httpdirfs(im.squashfs(), true).Way() })},
		{"rclone", kinds(cost{40, 20}, cost{100, 50}), false,
			of(func(_ programs, im Images) bench.Way { return bench.Rclone(im.squashfs()).Way() })},
		{"desync-cache", kinds(cost{10, 2}, cost{50, 10}), false,
			of(func(p programs, im Images) bench.Way {
				return bench.Desync("desync-cache", p.desync, im.desync(), true, true).Way()
			})},
		{"reordered", kinds(cost{3, 1}, cost{3, 5}), true, withCache("reordered", Images.reordered)},
		{wayBootprof, kinds(cost{3, 1}, cost{3, 5}), true, withCache(wayBootprof, Images.pack)},
	}
}

// mirrored lets the clients that can use several servers have them, each behind a link of its own: bootprof uses all at once,
// desync the next one when one fails. Others get the first.
func mirrored(c candidate, mirrors []bench.Mirror) candidate {
	if !c.ours && c.name != wayTrained {
		return c
	}
	plain := c.make
	c.make = func(p programs, im Images) bench.Way {
		w := plain(p, im)
		w.Mirrors = mirrors
		return w
	}
	return c
}
