package imagepack

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"

	"bootprof/imagepack/bpk"
	"bootprof/internal/atomicfile"
)

// bridgePages is the largest gap between two boot ranges of a manifest, in pages, that is preloaded along: a request
// more would cost the client more than 64 KiB do.
const bridgePages = 16

// WriteManifest writes to path the manifest of img: a pack that holds no chunk, for an image file that lies beside
// it and that clients read in ranges. opts.Boot is the boot order; ranges that follow each other in the image with a
// small gap are joined. Compression options have no meaning here. As with Write, the file appears whole or not at all.
func WriteManifest(ctx context.Context, path string, img Image, opts WriteOptions) (*Stats, error) {
	f, err := atomicfile.Create(path, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := writeManifest(ctx, f, img, opts)
	if err != nil {
		return nil, err
	}
	return st, commit(opts.Sign, st.Digest, f, path, st.PackSize)
}

func writeManifest(ctx context.Context, f io.WriterAt, img Image, opts WriteOptions) (*Stats, error) {
	if err := checkSize(img); err != nil {
		return nil, err
	}
	boot := plainIndex(bridged(pageRanges(img.Size(), opts.Boot)))
	m := &manifestWriter{img: img, boot: boot, progress: opts.Progress}
	if err := m.hashBoot(); err != nil {
		return nil, err
	}
	if err := m.hashBody(ctx); err != nil {
		return nil, err
	}
	if known := opts.ImageSHA256; known != [32]byte{} && known != m.sum {
		return nil, errChanged
	}
	var info []byte
	if opts.Info != nil {
		info = opts.Info(int64(boot.Pages()))
	}
	return m.write(f, info)
}

// bridged joins each range with the one before it, in boot order, if the gap between them is of at most bridgePages
// that no other range has. Everything else keeps its place: a client may need the end of the image before most of its start.
func bridged(ranges []bpk.Range) []bpk.Range {
	taken := bpk.NewBootIndex(ranges)
	var out []bpk.Range
	for _, r := range ranges {
		if n := len(out); n > 0 {
			last := &out[n-1]
			gap := r.Page - last.Page - last.Pages
			if gap >= 0 && gap <= bridgePages && free(taken, last.Page+last.Pages, gap) {
				last.Pages += gap + r.Pages
				continue
			}
		}
		out = append(out, r)
	}
	return out
}

// free tells whether none of the pages is in the index. That no gap is filled twice follows: a gap lies between two
// ranges that are neighbours in the image.
func free(x *bpk.BootIndex, page, pages int64) bool {
	cold := x.ColdRanges(page, pages)
	return pages == 0 || len(cold) == 1 && cold[0].Pages == pages
}

// plainIndex makes the boot index of a manifest, without digests: chunks that do not cross the borders of ranges,
// small ones first.
func plainIndex(ranges []bpk.Range) *bpk.BootIndex {
	x := bpk.NewBootIndex(ranges)
	x.Plain = true
	size := int64(firstChunkPages)
	for _, r := range ranges {
		for r.Pages > 0 {
			n := min(size, r.Pages)
			x.AddChunk(bpk.Block{Len: n * bpk.PageSize}, int(n), true, bpk.FilterNone)
			r.Page, r.Pages = r.Page+n, r.Pages-n
			size = min(2*size, zoneChunkPages)
		}
	}
	return x
}

// manifestWriter hashes the chunks of an image and writes the indexes.
type manifestWriter struct {
	img      Image
	boot     *bpk.BootIndex
	progress func(done, total int64)

	sum     [32]byte // of the image
	entries []bpk.Entry
}

func (m *manifestWriter) hashBoot() error {
	buf := make([]byte, bpk.MaxChunkPages*bpk.PageSize)
	for i := range m.boot.Chunks {
		c := &m.boot.Chunks[i]
		r := m.boot.RangesOf(c)[0]
		if err := readImage(m.img, buf[:c.Len], r.Page*bpk.PageSize); err != nil {
			return err
		}
		c.SHA256 = sha256.Sum256(buf[:c.Len])
	}
	return nil
}

// hashBody reads the image once and makes the body's entries: cold pieces, and the boot ranges between them, which
// need no chunk.
func (m *manifestWriter) hashBody(ctx context.Context) error {
	image := sha256.New()
	buf := make([]byte, bpk.MaxChunkPages*bpk.PageSize)
	for _, r := range planBody(m.img.Size(), m.img.Segments(), m.boot) {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := buf[:r.Pages*bpk.PageSize]
		if err := readImage(m.img, b, r.Page*bpk.PageSize); err != nil {
			return err
		}
		image.Write(b)
		next := r.Page
		for _, c := range m.boot.ColdRanges(r.Page, r.Pages) {
			m.hot(next, c.Page-next)
			at := (c.Page - r.Page) * bpk.PageSize
			m.cold(c, b[at:at+c.Pages*bpk.PageSize])
			next = c.Page + c.Pages
		}
		m.hot(next, r.Page+r.Pages-next)
		if m.progress != nil {
			m.progress((r.Page+r.Pages)*bpk.PageSize, m.img.Size())
		}
	}
	m.sum = [32]byte(image.Sum(nil))
	return nil
}

// hot adds pages that the boot index covers.
func (m *manifestWriter) hot(page, pages int64) {
	if pages > 0 {
		m.entries = append(m.entries, bpk.Entry{Page: page, Pages: pages, Codec: bpk.CodecZero})
	}
}

func (m *manifestWriter) cold(r bpk.Range, data []byte) {
	e := bpk.Entry{Page: r.Page, Pages: r.Pages, Codec: bpk.CodecZero}
	if !allZero(data) {
		e.Codec, e.Len, e.SHA256 = bpk.CodecRaw, int64(len(data)), sha256.Sum256(data)
	}
	m.entries = append(m.entries, e)
}

// write writes header, boot index, root, nodes and info. Where in the pack bytes of the image lie depends on the
// manifest's own length, which is known before the first node is made.
func (m *manifestWriter) write(f io.WriterAt, info []byte) (*Stats, error) {
	index, err := m.boot.Encode()
	if err != nil {
		return nil, err
	}
	w := &packWriter{img: m.img, f: f}
	w.head.Features = bpk.FeatureBeside
	w.layoutHead(index, m.boot.Pages(), 0, bpk.RootLen(len(m.entries)))
	nodesOff := w.head.BodyRoot.PackOff + w.head.BodyRoot.Len
	w.head.PackSize = nodesOff + bpk.NodesLen(len(m.entries)) + int64(len(info))
	for i := range m.entries {
		if e := &m.entries[i]; e.Codec != bpk.CodecZero {
			e.PackOff = w.head.PackSize + e.Page*bpk.PageSize
			w.stats.Body += e.Len
		}
	}
	w.stats.BodyChunks = int64(len(m.entries))
	w.head.ImageSHA256 = m.sum
	if err := w.put(w.head.BootIndex.PackOff, index); err != nil {
		return nil, err
	}
	return &w.stats, w.writeIndexes(m.entries, info, nodesOff)
}

// writeIndexes writes the body index, the info and the header of a pack whose chunks lie in other files. Nodes and info
// begin at nodesOff.
func (w *packWriter) writeIndexes(entries []bpk.Entry, info []byte, nodesOff int64) error {
	out := &offsetWriter{w: w.f, off: nodesOff}
	root, depth, err := bpk.BuildTree(entries, func(node []byte) (int64, error) {
		at := out.off
		_, err := out.Write(node)
		return at, err
	})
	if err != nil {
		return err
	}
	h := &w.head
	if int64(len(root)) != h.BodyRoot.Len {
		panic(fmt.Sprintf("BUG: body root of %d bytes, planned %d", len(root), h.BodyRoot.Len))
	}
	h.BodyRoot.SHA256, h.BodyDepth = sha256.Sum256(root), depth
	w.stats.BodyIndex = out.off - nodesOff + int64(len(root))
	if len(info) > 0 {
		h.Info = bpk.Block{PackOff: out.off, Len: int64(len(info)), SHA256: sha256.Sum256(info)}
		if _, err := out.Write(info); err != nil {
			return err
		}
	}
	if h.PackSize != 0 && h.PackSize != out.off {
		panic(fmt.Sprintf("BUG: pack of %d bytes, planned %d", out.off, h.PackSize))
	}
	h.PackSize = out.off
	w.stats.ImageSize, w.stats.PackSize = h.ImageSize, h.PackSize
	if err := w.put(h.BodyRoot.PackOff, root); err != nil {
		return err
	}
	return w.putHeader()
}
