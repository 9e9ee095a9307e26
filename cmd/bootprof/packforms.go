package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"bootprof/imagepack"
	"bootprof/imagepack/bpk"
	"bootprof/imagepack/sign"
	"bootprof/internal/cachefile"
	"bootprof/profiles"
)

// bpk writes an ordinary pack.
func (p *packJob) bpk(ctx context.Context) error {
	img, opts, err := p.image(ctx)
	if err != nil {
		return err
	}
	defer img.Close()
	p.bar.step("packing")
	opts.Sign = p.signer()
	st, err := imagepack.Write(ctx, p.out, img, opts)
	if err != nil {
		return p.failed(err)
	}
	p.tell("%s: %s for an image of %s, in %.1f s", p.out, size(st.PackSize), size(st.ImageSize), time.Since(p.began).Seconds())
	p.tellBoot(st)
	return p.finish(st.Digest)
}

// split writes a pack to a file without a name, or takes the one that the input is, and divides it.
func (p *packJob) split(ctx context.Context) error {
	in := p.in.Pack()
	from, err := p.whole(ctx, filepath.Dir(p.out), in != nil && !in.Header.Outside())
	if err != nil {
		return err
	}
	defer from.Close()
	p.bar.step("splitting")
	st, err := imagepack.SplitSigned(ctx, from.Pack, p.out, p.signer(), p.bar.set)
	if err != nil {
		return p.failed(err)
	}
	p.tell("%s: index of %s; %s in %s, of which %d (%s) were not there yet; in %.1f s", p.out, size(st.IndexSize),
		plural(int(st.Chunks), "chunk"), filepath.Join(filepath.Dir(p.out), "chunks"), st.New, size(st.NewBytes), time.Since(p.began).Seconds())
	return p.finish(st.Digest)
}

// sparse writes the boot pages as a cache of the pack.
func (p *packJob) sparse(ctx context.Context) (err error) {
	dir, temp := p.out, p.out
	if _, err := os.Stat(dir); err != nil {
		temp = filepath.Dir(filepath.Clean(dir))
	}
	from, err := p.whole(ctx, temp, p.in.Pack() != nil)
	if err != nil {
		return err
	}
	defer from.Close()
	h := from.Header
	if len(from.Boot.Ranges) == 0 {
		return &imagepack.InputError{Path: p.input, Err: fmt.Errorf("no boot pages: give --profile RUN.bprof, or a pack that has a boot zone")}
	}
	img, err := p.in.Image(ctx, p.fs)
	if err != nil {
		return err
	}
	defer img.Close()
	p.bar.step("writing the boot pages")
	if temp != dir {
		defer func() {
			if err != nil {
				os.Remove(dir) // only if nothing is in it
			}
		}()
	}
	err = cachefile.Write(ctx, dir, from.Digest, h.ImageSize, from.Boot.Ranges, func(dst []byte, imageOff int64) error {
		_, err := img.ReadAt(dst, imageOff)
		return err
	})
	if err != nil {
		return p.failed(err)
	}
	p.tell("%s: %s of %s, for\n  bootprof mount --cache %s URL DIR\nof the pack with the digest below", dir, size(h.BootPages*bpk.PageSize), size(h.ImageSize), dir)
	fmt.Fprintf(p.stdout, "sha256:%x\n", from.Digest)
	return nil
}

// whole returns the pack of the input: the input itself, if it can be taken as it is, or one in a file without a name
// in dir.
func (p *packJob) whole(ctx context.Context, dir string, asItIs bool) (*openedPack, error) {
	if asItIs && len(p.runs) == 0 && p.fs == "" {
		return &openedPack{p.in.Pack(), nil}, nil
	}
	img, opts, err := p.image(ctx)
	if err != nil {
		return nil, err
	}
	defer img.Close()
	f, err := os.CreateTemp(dir, ".bootprof-")
	if err != nil {
		return nil, p.failed(err)
	}
	os.Remove(f.Name())
	p.bar.step("packing")
	st, err := imagepack.WriteTo(ctx, f, img, opts)
	if err != nil {
		f.Close()
		return nil, p.failed(err)
	}
	pack, err := bpk.Open(f, st.PackSize)
	if err != nil {
		f.Close()
		return nil, err
	}
	p.tellBoot(st)
	return &openedPack{pack, f}, nil
}

// squashfs writes a squashfs in boot order and its manifest.
func (p *packJob) squashfs(ctx context.Context) error {
	var hashing sync.Once
	opts := imagepack.SquashfsOptions{BlockSize: p.blockSize, Compressor: p.compressor, Workers: p.jobs, Progress: p.bar.set, Sign: p.signer()}
	if len(p.runs) > 0 {
		var err error
		if opts.Reference, opts.Boot, err = p.reference(ctx); err != nil {
			return err
		}
		defer opts.Reference.Close()
		opts.Info = p.info("", opts.Reference.Size())
	}
	p.bar.step("laying out")
	opts.Hashing = func(done, total int64) {
		hashing.Do(func() { p.bar.step("hashing for the manifest") })
		p.bar.set(done, total)
	}
	st, err := imagepack.WriteSquashfs(ctx, p.in, p.out, opts)
	if err != nil {
		return p.failed(err)
	}
	l, m := st.Layout, st.Manifest
	p.tell("%s: squashfs of %s, in %.1f s; %s: %s", p.out, size(l.Size), time.Since(p.began).Seconds(), p.out+bpk.ManifestSuffix, size(m.PackSize))
	if m.BootPages > 0 {
		p.tell("boot order: %s to preload from %s", size(m.BootPages*bpk.PageSize), plural(len(p.runs), "run"))
	}
	p.tellHead(m)
	p.tellLost(imagepack.Losses{Xattrs: l.DroppedXattrs, Times: l.ClampedTimes})
	return p.end(p.out+bpk.ManifestSuffix, m.Digest)
}

// reference returns the image that the profiles' order is told in: that of a pack of the same files, which is only
// planned. Runs are looked up in it by path, so none of its bytes is read.
func (p *packJob) reference(ctx context.Context) (imagepack.Image, []profiles.Range, error) {
	img, err := p.in.Image(ctx, imagepack.FSErofs)
	if err != nil {
		return nil, nil, err
	}
	order, err := bootOrder(img, [32]byte{}, p.packFlags.runs, p.runs, func(string, ...any) {})
	if err != nil {
		img.Close()
		return nil, nil, err
	}
	return img, order, nil
}

// tellLost tells what of the input's files did not fit in a squashfs.
func (p *packJob) tellLost(lost imagepack.Losses) {
	if n := lost.Xattrs; n > 0 {
		p.say("left out, since a squashfs cannot hold them: %s (POSIX ACLs)", plural(n, "attribute"))
	}
	if n := lost.Times; n > 0 {
		p.say("moved to the nearest that a squashfs can hold: %s before 1970 or after 2106", plural(n, "time"))
	}
}

// failed names what was being done, unless the input is at fault, which names itself.
func (p *packJob) failed(err error) error {
	var input *imagepack.InputError
	if errors.As(err, &input) {
		return err
	}
	return fmt.Errorf("packing %s into %s: %w", p.input, p.out, err)
}

// tell prints a line for people.
func (p *packJob) tell(format string, v ...any) {
	p.bar.line(format, v...)
}

func (p *packJob) tellBoot(st *imagepack.Stats) {
	p.tellHead(st)
	switch {
	case st.BootPages == 0 && p.format == "bpk":
		word := "{dir}" // where the image is mounted
		if !p.mountable {
			word = "{}"
		}
		p.tell("no boot zone yet: record a boot with\n  bootprof record --image %s -o run.bprof -- COMMAND %s\nand pack again with --profile run.bprof", p.out, word)
	case st.BootPages > 0:
		from := "the pack that was given"
		if len(p.runs) > 0 {
			from = plural(len(p.runs), "run")
		}
		p.tell("boot zone: %d pages (%s) from %s in %s, index %s", st.BootPages, size(st.BootPages*bpk.PageSize), from, size(st.BootZone), size(st.BootIndex))
	}
}

// tellHead warns of much that a client needs before the first boot byte.
func (p *packJob) tellHead(st *imagepack.Stats) {
	if st.Head > imagepack.GoodHead {
		p.say("a client needs %s before the first boot byte, %s of it boot index; more than %d KiB delay every boot: record with fewer programs running, or give fewer profiles",
			size(st.Head), size(st.BootIndex), imagepack.GoodHead>>10)
	}
}

// finish compares with the base and prints the digest.
func (p *packJob) finish(digest [32]byte) error {
	if p.base != nil {
		made, err := openPack(p.out, p.out)
		if err != nil {
			return err
		}
		defer made.Close()
		st, err := imagepack.CompareBase(made.Pack, p.base.Pack)
		if err != nil {
			return fmt.Errorf("comparing with %s: %w", p.baseOf, err)
		}
		p.tell("a client that holds %s downloads at most %s: boot zone %s of %s, body %s of %s, indexes %s; %.1f %% of the image's pages are shared",
			p.baseOf, size(st.NewBytes+st.Indexes), size(st.NewBoot), size(st.BootBytes), size(st.NewBytes-st.NewBoot), size(st.Bytes-st.BootBytes),
			size(st.Indexes), 100*float64(st.SamePages)/float64(max(1, st.AllPages)))
	}
	return p.end(p.out, digest)
}

// signer returns what makes the signature, nil if none is wanted.
func (p *packJob) signer() imagepack.Signer {
	if p.key == nil {
		return nil
	}
	return func(r io.Reader, name string, digest [32]byte) ([]byte, error) {
		p.bar.step("signing")
		return p.key.Sign(r, name, digest)
	}
}

// end tells of the signature and prints the digest.
func (p *packJob) end(path string, digest [32]byte) error {
	if p.key != nil {
		p.tell("signature: %s", path+sign.Suffix)
	} else if old, err := os.ReadFile(path + sign.Suffix); err == nil && !strings.Contains(string(old), fmt.Sprintf("%x", digest)) {
		p.say("%s was made for an older %s and does not fit any more: sign with --sign, or remove it", path+sign.Suffix, filepath.Base(path))
	}
	fmt.Fprintf(p.stdout, "sha256:%x\n", digest)
	return nil
}
