// Command packbench compares bootprof pack with mksquashfs and mkfs.erofs on one tree:
//
//	packbench --tree DIR [--run RUN]... [--bootprof BINARY] [--rounds 3] [--work DIR]
//
// The table goes to stdout, progress to stderr. Exit codes: 0 measured, 1 something failed, 2 wrong flags.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"bootprof/bench/packing"
)

// base is the builder that ratios refer to.
const base = "mksquashfs zstd"

type flags struct {
	tree, bootprof, work, json string
	only                       *regexp.Regexp // nil: all
	runs                       []string
	rounds                     int
}

func main() {
	var f flags
	flag.StringVar(&f.tree, "tree", "", "the `DIR` to build images of")
	flag.Func("run", "recorded run `FILE`, for packs with a boot zone; may be repeated", func(s string) error {
		f.runs = append(f.runs, "--profile", s)
		return nil
	})
	flag.StringVar(&f.bootprof, "bootprof", "bootprof", "bootprof `BINARY` to measure")
	flag.StringVar(&f.work, "work", "", "`DIR` for the images; default: the one for temporary files")
	flag.Func("only", "measure only the builders whose name matches `REGEX`", func(s string) (err error) {
		f.only, err = regexp.Compile(s)
		return err
	})
	flag.StringVar(&f.json, "json", "", "write all runs to `FILE`, too")
	flag.IntVar(&f.rounds, "rounds", 3, "rounds of all builders")
	flag.Parse()
	if f.tree == "" || flag.NArg() > 0 || f.rounds < 1 {
		fmt.Fprintln(os.Stderr, "usage: packbench --tree DIR [FLAGS]; --help lists them")
		os.Exit(2)
	}
	if err := run(f); err != nil {
		fmt.Fprintln(os.Stderr, "packbench:", err)
		os.Exit(1)
	}
}

// builders are what is compared. mksquashfs's zstd level is 15 unless said; bootprof's levels are those of a library that names
// them after zstd's 3 (default) and 11 (best).
func builders(f flags, squashfs string) []packing.Builder {
	pack := func(args ...string) []string {
		return append([]string{f.bootprof, "pack", f.tree, "-o", packing.Out}, args...)
	}
	squash := func(args ...string) []string {
		return append([]string{"mksquashfs", f.tree, packing.Out, "-noappend", "-no-progress", "-comp"}, args...)
	}
	out := []packing.Builder{
		{Name: base, Args: squash("zstd")},
		{Name: "mksquashfs zstd, level 11", Args: squash("zstd", "-Xcompression-level", "11")},
		{Name: "mksquashfs zstd, level 3", Args: squash("zstd", "-Xcompression-level", "3")},
		{Name: "mksquashfs xz", Args: squash("xz")},
		{Name: "mkfs.erofs lz4hc", Args: []string{"mkfs.erofs", "-zlz4hc", packing.Out, f.tree}},
		{Name: "bootprof pack", Args: pack()},
		{Name: "bootprof pack --level default", Args: pack("--level", "default")},
		{Name: "bootprof pack --level max", Args: pack("--level", "max")},
	}
	if len(f.runs) > 0 {
		out = append(out, packing.Builder{Name: "bootprof pack --profile", Args: pack(f.runs...)})
	}
	out = append(out,
		packing.Builder{Name: "bootprof pack --format squashfs", Args: pack(append(f.runs, "--format", "squashfs")...)},
		packing.Builder{Name: "the same of the zstd squashfs", Args: append([]string{f.bootprof, "pack", squashfs, "-o", packing.Out, "--format", "squashfs"}, f.runs...)})
	if f.only != nil {
		out = slices.DeleteFunc(out, func(b packing.Builder) bool { return !f.only.MatchString(b.Name) })
	}
	return out
}

func run(f flags) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	work, err := os.MkdirTemp(f.work, "packbench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	squashfs := filepath.Join(work, "source.sqfs")
	if out, err := exec.CommandContext(ctx, "mksquashfs", f.tree, squashfs, "-comp", "zstd", "-noappend", "-no-progress").CombinedOutput(); err != nil {
		return fmt.Errorf("mksquashfs: %w: %s", err, strings.TrimSpace(string(out)))
	}
	files, bytes, err := read(f.tree)
	if err != nil {
		return err
	}
	results, err := packing.Measure(ctx, builders(f, squashfs), filepath.Join(work, "out"), f.rounds, func(name string, r packing.Run) {
		fmt.Fprintf(os.Stderr, "%s: %.1f s, %d MB at its peak, %.1f MB\n", name, r.Wall.Seconds(), r.PeakRSS>>20, float64(r.Size)/1e6)
	})
	if err != nil {
		return err
	}
	fmt.Printf("%d files, %.0f MB; medians of %d rounds, builders alternating; ratios to %s\n\n%s", files, float64(bytes)/1e6, f.rounds, base, packing.Table(results, base))
	if f.json == "" {
		return nil
	}
	b, err := json.MarshalIndent(results, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(f.json, b, 0o644)
}

// read reads the whole tree, so that all builders find it in the page cache.
func read(dir string) (files int, bytes int64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		files++
		bytes += int64(len(b))
		return err
	})
	return files, bytes, err
}
