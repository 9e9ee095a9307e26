package imagepack

import (
	"context"
	"errors"
	"path"

	"bootprof/imagepack/bpk"
	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/squashfs"
	"bootprof/imagepack/squashfs/relayout"
	"bootprof/internal/atomicfile"
	"bootprof/profiles"
)

// SquashfsOptions say how a squashfs in boot order is written. The zero value is usable.
type SquashfsOptions struct {
	Boot      []profiles.Range // what a boot touches, in boot order, as ranges of Reference
	Reference Image            // an image of the same files; must be set if Boot is

	BlockSize  int    // of a squashfs made of a tree, bytes; 0: 128 KiB
	Compressor string // the same: zstd, gzip, xz, lz4, none; "": zstd
	Workers    int    // compressing goroutines; 0: one per CPU
	Info       func(bootPages int64) []byte
	Progress   func(done, total int64) // of the squashfs; may be nil
	Hashing    func(done, total int64) // of the manifest, which follows; may be nil
	Sign       Signer                  // of the manifest; nil: no signature
}

// SquashfsStats tell what was written.
type SquashfsStats struct {
	Layout   *relayout.Layout
	Manifest *Stats
}

// WriteSquashfs writes the input as a squashfs in boot order to path, which any kernel mounts, and its manifest to path with
// bpk.ManifestSuffix behind it. From a squashfs, compressed blocks are moved, not compressed again. Both files appear
// whole, the manifest right before the image: in the moment between the two, clients refuse what is there. An image without
// its manifest, which they would take without a check, is never there.
func WriteSquashfs(ctx context.Context, in *Input, path string, opts SquashfsOptions) (*SquashfsStats, error) {
	f, err := atomicfile.Create(path, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	manifest, err := atomicfile.Create(path+bpk.ManifestSuffix, 0o644)
	if err != nil {
		return nil, err
	}
	defer manifest.Close()
	var order []relayout.Touch
	if len(opts.Boot) > 0 {
		order = touchesOf(opts.Boot, imagemap.New(opts.Reference.Segments()))
	}
	l, err := layOut(ctx, in, f, relayout.Options{Order: order, Workers: opts.Workers, Progress: opts.Progress, BlockSize: opts.BlockSize, Compressor: opts.Compressor})
	if err != nil {
		return nil, in.wrap(ctx, err)
	}
	img := &rawImage{r: f, size: l.Size, kind: "squashfs", segs: l.Segments}
	st, err := writeManifest(ctx, manifest, img, WriteOptions{Boot: bootRanges(order, imagemap.New(l.Segments)), Info: opts.Info, Progress: opts.Hashing})
	if err != nil {
		return nil, err
	}
	if err := commit(opts.Sign, st.Digest, manifest, path+bpk.ManifestSuffix, st.PackSize, f); err != nil {
		return nil, err
	}
	return &SquashfsStats{l, st}, nil
}

func layOut(ctx context.Context, in *Input, f relayout.File, opts relayout.Options) (*relayout.Layout, error) {
	if in.kind == "squashfs" && in.choice == nil {
		if opts.Compressor != "" || opts.BlockSize != 0 {
			return nil, errors.New("a squashfs keeps its blocks and its compressor: give neither --compressor nor --block-size")
		}
		s, err := squashfs.Open(in.r, in.size)
		if err != nil {
			return nil, err
		}
		return relayout.Relayout(ctx, s, f, opts)
	}
	root, err := in.Tree(ctx)
	if err != nil {
		return nil, err
	}
	return relayout.Write(ctx, root, f, opts)
}

// touchesOf turns ranges of an image into parts of files. What belongs to no file is left out.
func touchesOf(ranges []profiles.Range, m *imagemap.Map) []relayout.Touch {
	var out []relayout.Touch
	for _, r := range ranges {
		for _, s := range m.At(r.ImageOff, r.Len) {
			t := relayout.Touch{Path: s.Path, Kind: s.Kind, FileOff: s.FileOff, Len: s.FileLen}
			if s.Kind == imagemap.Meta {
				continue
			}
			if s.Kind == imagemap.Data && s.ImageLen == s.FileLen {
				from, to := max(r.ImageOff, s.ImageOff), min(r.ImageOff+r.Len, s.ImageOff+s.ImageLen)
				t.FileOff, t.Len = s.FileOff+from-s.ImageOff, to-from
			}
			out = append(out, t)
		}
	}
	return out
}

// bootRanges returns what of an image a boot with these touches reads, in order: the tables that a mount reads, then, for
// each touch, the directories on the way to the file, its inode, and the content.
func bootRanges(touches []relayout.Touch, m *imagemap.Map) []profiles.Range {
	if len(touches) == 0 {
		return nil
	}
	var out []profiles.Range
	add := func(segs []imagemap.Segment) {
		for _, s := range segs {
			out = append(out, profiles.Range{ImageOff: s.ImageOff, Len: s.ImageLen})
		}
	}
	add(m.Find("", imagemap.Meta, 0, 0))
	walked := make(map[string]bool)
	var walk func(p string)
	walk = func(p string) {
		if walked[p] {
			return
		}
		walked[p] = true
		if p != "" {
			up := path.Dir(p)
			if up == "." {
				up = ""
			}
			walk(up)
			add(m.Find(up, imagemap.Dir, 0, 1<<62))
		}
		add(m.Find(p, imagemap.Inode, 0, 0))
	}
	for _, t := range touches {
		walk(t.Path)
		switch t.Kind {
		case imagemap.Data:
			add(m.Find(t.Path, imagemap.Data, t.FileOff, t.Len))
		case imagemap.Dir:
			add(m.Find(t.Path, imagemap.Dir, 0, 1<<62))
		}
	}
	return out
}
