package ext4

import (
	"bytes"
	"sort"

	"bootprof/imagepack/imagemap"
)

const maxName = 255 // bytes

// A dirent is an entry of a directory.
type dirent struct {
	name string
	ino  uint32
}

// listing reads the entries of a directory, without "." and "..", sorted by name. Those of an encrypted one are
// not read.
func (b *builder) listing(in *inode, path string) ([]dirent, error) {
	var out []dirent
	if in.has(flagInline) {
		p, err := in.inlinePieces()
		if err != nil {
			return nil, err
		}
		b.mapInline(in, p, path, imagemap.Dir)
		p[0].off, p[0].n = p[0].off+4, p[0].n-4 // the number of the parent
		for _, p := range p {
			if out, err = b.parseDirents(out, in, in.raw[p.off:p.off+p.n]); err != nil {
				return nil, err
			}
		}
		return sortDirents(out), nil
	}
	bs := b.r.s.blockSize
	block := make([]byte, bs)
	err := b.eachRun(in, func(r run) error {
		b.mapRun(in, r, path, imagemap.Dir)
		if r.unwritten || in.has(flagEncrypt) {
			return nil
		}
		for i := int64(0); i < r.n && (r.fileBlk+i)*bs < in.size; i++ {
			if err := b.read(block, (r.blk+i)*bs); err != nil {
				return err
			}
			if b.r.s.metaCsum() && !dirSumOK(in.seed, block) {
				return corrupt("inode %d: wrong checksum of block %d of the directory", in.ino, r.fileBlk+i)
			}
			var err error
			if out, err = b.parseDirents(out, in, block); err != nil {
				return err
			}
		}
		return nil
	})
	return sortDirents(out), err
}

func sortDirents(l []dirent) []dirent {
	sort.Slice(l, func(i, j int) bool { return l[i].name < l[j].name })
	return l
}

// parseDirents appends the entries of one block or one piece of inline data.
func (b *builder) parseDirents(out []dirent, in *inode, block []byte) ([]dirent, error) {
	for at := 0; at < len(block); {
		if len(block)-at < 8 {
			return nil, corrupt("inode %d: a directory ends inside an entry", in.ino)
		}
		e := block[at:]
		length := int(le.Uint16(e[4:]))
		if len(block) == 1<<16 {
			// 64 KiB do not fit in the field.
			if length == 0 || length == 1<<16-1 {
				length = 1 << 16
			}
			length = length&^3 | length&3<<16
		}
		if nameLen := int(e[6]); length < 8+nameLen || length%4 != 0 || length > len(e) {
			return nil, corrupt("inode %d: a directory entry of %d bytes with %d left", in.ino, length, len(e))
		}
		at += length
		ino := le.Uint32(e)
		if ino == 0 {
			continue // empty, part of the index, or the checksum
		}
		name := e[8 : 8+int(e[6])]
		if s := string(name); s == "." || s == ".." {
			continue
		}
		switch {
		case len(name) == 0 || len(name) > maxName || bytes.ContainsAny(name, "/\x00"):
			return nil, corrupt("inode %d: the file name %.80q", in.ino, name)
		case ino > b.r.s.inodes || ino < b.r.s.firstIno && ino != rootIno:
			return nil, corrupt("inode %d: the name %.80q of inode %d of %d", in.ino, name, ino, b.r.s.inodes)
		}
		out = append(out, dirent{string(name), ino})
		if err := b.memory.Entry(out[len(out)-1].name); err != nil {
			return nil, err
		}
	}
	return out, nil
}
