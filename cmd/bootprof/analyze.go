package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"bootprof/analyzer"
	"bootprof/imagepack"
	"bootprof/imagepack/bpk"
	"bootprof/internal/atomicfile"
	"bootprof/profiles"
)

func (a *app) analyzeCmd() *cobra.Command {
	var links []string
	var asJSON bool
	var packPath, pagesTo string
	var bootTime time.Duration
	cmd := &cobra.Command{
		Use:   "analyze RUN.bprof...",
		Short: "Show what boots touch and what that costs over a link",
		Long: `Merge recorded runs of one image and print the working set, its ranges, and for each link the lower
bound: the time that no client can beat with these pages in this order.`,
		Args: args(1, -1, "at least one RUN.bprof"),
		RunE: func(cmd *cobra.Command, args []string) error {
			runs, err := readRuns(args)
			if err != nil {
				return err
			}
			var parsed []analyzer.Link
			for _, s := range links {
				l, err := analyzer.ParseLink(s)
				if err != nil {
					return usage(cmd, err)
				}
				parsed = append(parsed, l)
			}
			opts := analyzer.AnalyzeOptions{Merge: analyzer.MergeOptions{Names: args}, BootTime: bootTime}
			if pagesTo != "" && packPath == "" {
				return usage(cmd, errors.New("--pages-to needs the image: name its --pack"))
			}
			if packPath != "" {
				p, err := openPack(packPath, packPath)
				if err != nil {
					return err
				}
				defer p.Close()
				if !runs[0].Of(p.Header.ImageSHA256) {
					return &analyzer.MismatchError{Run: args[0], First: packPath, Field: "image",
						Got: fmt.Sprintf("%x", runs[0].Header.ImageSHA256[:6]), Want: fmt.Sprintf("%x", p.Header.ImageSHA256[:6])}
				}
				opts.CompressedSize = func(ranges []profiles.Range) ([]int64, error) {
					return compressedSizes(cmd.Context(), p.Pack, ranges, pagesTo)
				}
			}
			rep, err := analyzer.Analyze(runs, parsed, opts)
			if err != nil {
				return err
			}
			if asJSON {
				return rep.WriteJSON(a.stdout)
			}
			return rep.WriteText(a.stdout)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&links, "link", nil, "a link to price, `RATE/RTT` such as 100mbit/20ms; several may be given")
	f.StringVar(&packPath, "pack", "", "take compressed sizes from this `PACK` of the recorded image")
	f.StringVar(&pagesTo, "pages-to", "", "write the pages of the plan, in boot order, to `FILE`; needs --pack")
	f.DurationVar(&bootTime, "boot-time", 0, "what the boot takes from a local disk, if known: recorded times are scaled to it")
	f.BoolVar(&asJSON, "json", false, "JSON on stdout")
	return cmd
}

// compressedSizes returns the wire bytes of ranges of a pack's image up to and with each: those of the pack's
// boot zone if it holds them all, else what they would take as a boot zone in this order. The pages
// themselves go to the file pagesTo, unless that is "".
func compressedSizes(ctx context.Context, p *bpk.Pack, ranges []profiles.Range, pagesTo string) ([]int64, error) {
	sizes, inZone := zoneSizes(p.Boot, ranges)
	if inZone && pagesTo == "" {
		return sizes, nil
	}
	f, err := imagepack.ExtractTemp(ctx, p, nil)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if pagesTo != "" {
		if err := writePages(pagesTo, f, ranges); err != nil {
			return nil, err
		}
	}
	if inZone {
		return sizes, nil
	}
	return imagepack.CompressedSizes(f, ranges)
}

// zoneSizes returns the stored bytes of a boot zone up to and with the last page of each range, and whether the
// zone holds all of them. Within a chunk, bytes are shared out by pages.
func zoneSizes(x *bpk.BootIndex, ranges []profiles.Range) ([]int64, bool) {
	out := make([]int64, len(ranges))
	before := make([]int64, len(x.Chunks)) // stored bytes of the chunks before each
	for i := 1; i < len(before); i++ {
		before[i] = before[i-1] + x.Chunks[i-1].Len
	}
	upTo := int64(0)
	for i, r := range ranges {
		for page := r.ImageOff / bpk.PageSize; page*bpk.PageSize < r.ImageOff+r.Len; page++ {
			pos, ok := x.Position(page)
			if !ok {
				return nil, false
			}
			k := x.ChunkOf(pos)
			c := &x.Chunks[k]
			upTo = max(upTo, before[k]+c.Len*int64(pos-c.First+1)/int64(c.Pages))
		}
		out[i] = upTo
	}
	return out, true
}

// writePages writes the ranges of an image, one after the other, to the file at path.
func writePages(path string, img io.ReaderAt, ranges []profiles.Range) error {
	out, err := atomicfile.Create(path, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	for _, r := range ranges {
		if _, err := io.Copy(out, io.NewSectionReader(img, r.ImageOff, r.Len)); err != nil {
			return fmt.Errorf("writing pages to %s: %w", path, err)
		}
	}
	return out.Commit()
}
