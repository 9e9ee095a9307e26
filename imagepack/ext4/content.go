package ext4

import (
	"fmt"
	"io"
	"sort"

	"bootprof/imagepack/tree"
)

// content is a regular file with data. Where it is, is looked up again by each Open: most of a tree's files
// are never opened at the same time.
type content struct {
	r   *Reader
	ino uint32
}

// Open implements tree.Content. What it returns takes 32 bytes for every fragment of the file.
func (c *content) Open() (tree.ReadAtCloser, error) {
	n, err := c.r.readInode(c.r.readFull, c.ino)
	if err != nil {
		return nil, err
	}
	o := &openContent{r: c.r, size: n.size}
	if n.has(flagInline) {
		o.inline, err = n.inlineData()
		return o, err
	}
	nodes := int64(0)
	err = c.r.runs(c.r.readFull, n, func(int64) error {
		if nodes++; nodes > c.r.s.blocks {
			return corrupt("inode %d has more blocks than the image: it changed", n.ino)
		}
		return nil
	}, func(r run) error {
		if r.unwritten || r.fileBlk*c.r.s.blockSize >= n.size {
			return nil
		}
		if k := len(o.runs) - 1; k >= 0 {
			if l := &o.runs[k]; l.fileBlk+l.n == r.fileBlk && l.blk+l.n == r.blk {
				l.n += r.n
				return nil
			}
		}
		o.runs = append(o.runs, r)
		return nil
	})
	return o, err
}

// openContent is an open file.
type openContent struct {
	r      *Reader
	size   int64
	inline []byte
	runs   []run // written ones, by fileBlk
}

func (o *openContent) Close() error {
	o.runs, o.inline = nil, nil
	return nil
}

func (o *openContent) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= o.size {
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > o.size-off {
		p, eof = p[:o.size-off], io.EOF
	}
	if o.inline != nil {
		n := 0
		if off < int64(len(o.inline)) {
			n = copy(p, o.inline[off:])
		}
		clear(p[n:])
		return len(p), eof
	}
	bs := o.r.s.blockSize
	i := sort.Search(len(o.runs), func(i int) bool { return (o.runs[i].fileBlk+o.runs[i].n)*bs > off })
	for done := 0; done < len(p); {
		pos := off + int64(done)
		left := int64(len(p) - done)
		if i == len(o.runs) {
			clear(p[done:])
			break
		}
		start := o.runs[i].fileBlk * bs
		if pos < start { // a hole
			n := min(left, start-pos)
			clear(p[done : done+int(n)])
			done += int(n)
			continue
		}
		n := min(left, start+o.runs[i].n*bs-pos)
		if err := o.r.readFull(p[done:done+int(n)], o.runs[i].blk*bs+pos-start); err != nil {
			return done, fmt.Errorf("content at %d: %w", pos, err)
		}
		done += int(n)
		i++
	}
	return len(p), eof
}
