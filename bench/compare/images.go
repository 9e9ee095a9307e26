package compare

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"bootprof/bench"
)

// Images are all files made of one root file system, by the names that scripts/bench.sh gives them.
type Images struct {
	Kind string // "debian", "large", "debian2"
	Dir  string // build directory
}

func (im Images) path(name string) string { return filepath.Join(im.Dir, im.Kind+name) }

func (im Images) local() string     { return im.path(".erofs") }     // uncompressed
func (im Images) squashfs() string  { return im.path(".sqfs") }      // zstd, as it comes from mksquashfs
func (im Images) pack() string      { return im.path(".bpk") }       // with recorded runs
func (im Images) plainPack() string { return im.path(".plain.bpk") } // without

// Other forms have directories of their own, as what lies beside them is served, too.
func (im Images) reordered() string { return filepath.Join(im.path(".reordered"), "image.sqfs") }
func (im Images) split() string     { return filepath.Join(im.path(".split"), "image.bpk") }

func (im Images) desync() bench.DesyncImage {
	return bench.DesyncImage{Index: im.path(".caibx"), Store: im.path(".castr"), State: im.path(".desync-state")}
}

// runs are the recorded boots.
func (im Images) runs() []string {
	var runs []string
	for i := 1; ; i++ {
		run := im.path("." + strconv.Itoa(i) + ".bprof")
		if _, err := os.Stat(run); err != nil {
			return runs
		}
		runs = append(runs, run)
	}
}

// zstd19 is the size of the touched pages as one stream of zstd -19, 0 if that was not made.
func (im Images) zstd19() int64 {
	info, err := os.Stat(im.path(".pages.zst"))
	if err != nil {
		return 0
	}
	return info.Size()
}

// check says which file is missing.
func (im Images) check() error {
	for _, f := range []string{im.local(), im.squashfs(), im.pack(), im.plainPack(), im.reordered(), im.split(), im.desync().Index, im.desync().Store} {
		if _, err := os.Stat(f); err != nil {
			return fmt.Errorf("images of %s: %w (scripts/bench.sh makes them)", im.Kind, err)
		}
	}
	if len(im.runs()) == 0 {
		return fmt.Errorf("images of %s: no recorded run %s", im.Kind, im.path(".1.bprof"))
	}
	return nil
}
