package erofs

import (
	"crypto/sha256"
	"sort"

	"bootprof/imagepack/tree"
)

// emit makes the metadata and the table of parts.
func (p *plan) emit(r *regions, opts Options) (*Image, error) {
	im := &Image{
		size:  r.data.base + alignUp(r.data.cur, blockSize),
		files: p.files,
		open:  newOpenFiles(maxOpen),
	}
	dense := make([]byte, alignUp(r.dense.cur, blockSize))
	dirs := make([]byte, alignUp(r.dirs.cur, blockSize))
	var shared []byte
	for i, e := range p.sharedEntries {
		shared = append(shared, e...)
		im.shared = append(im.shared, span{r.shared.base + p.sharedOff[i], int64(len(e))})
	}

	// The UUID covers all metadata; the inodes of the small region are hashed with their places.
	hash := sha256.New()
	heads := make([]byte, 0, p.smallHeads())
	chunked := false
	for _, f := range p.files {
		if f.small {
			at := len(heads)
			heads = heads[:at+int(f.headLen())]
			head := heads[at:]
			putInode(head, f)
			im.addBytes(f.off, head)
			hash.Write(le.AppendUint64(nil, uint64(f.off)))
			hash.Write(head)
		} else {
			b := dense[f.off:]
			putInode(b, f)
			if f.layout == layoutChunked {
				chunked = true
				putChunkMap(b[inodeExtendedSize+len(f.xattrs):], f)
			}
		}
		switch f.node.Type() {
		case tree.ModeDir:
			p.putDir(f, dense, dirs, r.dirs.base)
		case tree.ModeSymlink:
			if f.tail > 0 {
				copy(dense[f.off+f.headLen():], f.node.LinkTarget)
			} else {
				copy(dirs[f.runs[0].imageOff-r.dirs.base:], f.node.LinkTarget)
			}
		case tree.ModeRegular:
			im.addContent(f)
		}
	}
	hash.Write(dense)
	hash.Write(shared)
	hash.Write(dirs)
	if opts.UUID == [16]byte{} {
		copy(opts.UUID[:], hash.Sum(nil))
		opts.UUID[6] = opts.UUID[6]&0x0f | 0x80 // version 8: free form
		opts.UUID[8] = opts.UUID[8]&0x3f | 0x80
	}
	p.putSuper(dense, r, im.size, chunked, opts)
	im.addBytes(0, dense)
	im.addBytes(r.shared.base, shared)
	im.addBytes(r.dirs.base, dirs)
	sort.Slice(im.parts, func(i, j int) bool { return im.parts[i].imageOff < im.parts[j].imageOff })
	return im, nil
}

// smallHeads returns the bytes of all inodes of the small region.
func (p *plan) smallHeads() int64 {
	n := int64(0)
	for _, f := range p.files {
		if f.small {
			n += f.headLen()
		}
	}
	return n
}

// putDir writes the entry blocks of a directory.
func (p *plan) putDir(f *file, dense, dirs []byte, dirsBase int64) {
	entries := dirEntries(f)
	for i, first := range f.cuts {
		end := len(entries)
		if i+1 < len(f.cuts) {
			end = f.cuts[i+1]
		}
		var b []byte
		if blockOff := int64(i) << blockBits; blockOff < f.size-f.tail {
			b = dirs[f.runs[0].imageOff-dirsBase+blockOff:]
		} else {
			b = dense[f.off+f.headLen():]
		}
		p.putDirents(b, f, entries[first:end])
	}
}

// putDirents writes one block of entries: fixed-size records, then the names.
func (p *plan) putDirents(b []byte, dir *file, entries []tree.Entry) {
	nameOff := len(entries) * direntSize
	for i, e := range entries {
		target := dir
		switch {
		case e.Inode != nil:
			target = p.index[e.Inode]
		case e.Name == "..":
			target = dir.parent
		}
		d := b[i*direntSize:]
		le.PutUint64(d[0:], uint64(target.off/nidUnit))
		le.PutUint16(d[8:], uint16(nameOff))
		d[10] = fileType(target.node.Mode)
		copy(b[nameOff:], e.Name)
		nameOff += len(e.Name)
	}
}

// putSuper writes the superblock into the first block of the dense region, which must be complete.
func (p *plan) putSuper(dense []byte, r *regions, size int64, chunked bool, opts Options) {
	b := dense[superOff:blockSize]
	le.PutUint32(b[0:], magic)
	le.PutUint32(b[8:], compatChecksum|compatMtime)
	b[12] = blockBits
	le.PutUint16(b[14:], uint16(p.files[0].off/nidUnit))
	le.PutUint64(b[16:], uint64(len(p.files)))
	le.PutUint64(b[24:], uint64(opts.BuildTimeSec))
	le.PutUint32(b[32:], opts.BuildTimeNsec)
	le.PutUint32(b[36:], uint32(size>>blockBits))
	le.PutUint32(b[44:], uint32(r.shared.base>>blockBits))
	copy(b[48:64], opts.UUID[:])
	copy(b[64:79], opts.Label)
	if chunked {
		le.PutUint32(b[80:], incompatChunked)
	}
	le.PutUint32(b[4:], checksum(b))
}
