package container

import (
	"encoding/binary"
	"strings"
	"unicode/utf16"

	"bootprof/imagepack/tree"
)

// Limits of one walk over an ISO. The directories of 100,000 files take about 12 MiB.
const (
	maxDirBytes  = 128 << 20 // of directories and Rock Ridge continuations
	maxFiles     = 1 << 19   // files and directories
	maxPathBytes = 64 << 20  // of the paths of all files together
	maxDepth     = 256       // directories in each other
)

// A budget counts what a walk has taken.
type budget struct{ dirBytes, files, pathBytes int64 }

func (u *budget) take(im *isoImage, dirBytes, pathBytes int64) error {
	if dirBytes > 0 {
		u.dirBytes += max(dirBytes, 64) // reading little costs, too
	}
	u.pathBytes += pathBytes
	if pathBytes > 0 {
		u.files++
	}
	switch {
	case u.dirBytes > maxDirBytes:
		return im.unsupported("more than %d MiB of directories", maxDirBytes>>20)
	case u.files > maxFiles:
		return im.unsupported("more than %d files", maxFiles)
	case u.pathBytes > maxPathBytes:
		return im.unsupported("more than %d MiB of paths", maxPathBytes>>20)
	}
	return nil
}

// An isoFile is a file or a directory as a walk finds it.
type isoFile struct {
	path     string // "" is the root
	dir      bool
	extents  []tree.Extent // not empty, in order, adjacent ones joined; they lie in the image
	length   int64         // bytes in all extents
	unpacked int64         // size of a file in zisofs compression, 0 if it is stored plainly
}

type isoDir struct {
	path      string
	depth     int
	off, size int64
}

// walk calls visit for the directories of v and for its regular files that are not empty, in no particular order.
func (im *isoImage) walk(v isoVolume, visit func(isoFile) error) error {
	w := &isoWalk{im: im, v: v, visit: visit, seen: make(map[int64]bool)}
	if err := w.push(isoDir{off: v.root.off, size: v.root.size}); err != nil {
		return err
	}
	for len(w.todo) > 0 {
		d := w.todo[len(w.todo)-1]
		w.todo = w.todo[:len(w.todo)-1]
		if err := w.directory(d); err != nil {
			return err
		}
	}
	return nil
}

type isoWalk struct {
	im    *isoImage
	v     isoVolume
	visit func(isoFile) error
	seen  map[int64]bool // where directories start
	todo  []isoDir
	used  budget
	open  *isoFile // has more extents to come
	id    string   // its identifier as stored
}

func (w *isoWalk) push(d isoDir) error {
	switch {
	case w.seen[d.off]:
		return w.im.corrupt("directory %q is also found in another place", d.path)
	case d.depth > maxDepth:
		return w.im.unsupported("directories more than %d deep", maxDepth)
	}
	w.seen[d.off] = true
	if err := w.used.take(w.im, d.size, int64(len(d.path))+1); err != nil {
		return err
	}
	w.todo = append(w.todo, d)
	return nil
}

// directory reads the records of d. A record does not cross the end of a sector; a zero where one would start
// means that the rest of the sector is unused.
func (w *isoWalk) directory(d isoDir) error {
	if d.size > 0 {
		if err := w.im.within(d.off, d.size, "directory "+quoted(d.path)); err != nil {
			return err
		}
		extents := []tree.Extent{{Off: d.off, Len: d.size}}
		if err := w.visit(isoFile{path: d.path, dir: true, extents: extents, length: d.size}); err != nil {
			return err
		}
	}
	b := make([]byte, d.size)
	if err := w.im.read(b, d.off, "directory "+quoted(d.path)); err != nil {
		return err
	}
	for at := 0; at < len(b); {
		if b[at] == 0 {
			at += isoSector - at%isoSector
			continue
		}
		rec, err := w.im.parseRecord(b[at:], w.v.block)
		if err != nil {
			return err
		}
		switch {
		case !rec.isDotEntry():
			err = w.record(d, rec)
		case w.im.onContinuation != nil:
			_, err = w.rockRidge(rec)
		}
		if err != nil {
			return err
		}
		at += int(b[at])
	}
	if w.open != nil {
		return w.im.corrupt("file %q lacks its last extent", w.open.path)
	}
	return nil
}

// record takes one record of d that is neither "." nor "..".
func (w *isoWalk) record(d isoDir, rec isoRecord) error {
	if w.open != nil {
		if string(rec.id) != w.id || rec.isDir() {
			return w.im.corrupt("file %q lacks its last extent", w.open.path)
		}
		return w.extent(rec)
	}
	rr, err := w.rockRidge(rec)
	if err != nil {
		return err
	}
	if rr.relocated {
		return nil // is found through the entry in its true place
	}
	name := rr.name
	switch {
	case name == "" && w.v.joliet:
		name = plainName(ucs2(rec.id))
	case name == "":
		name = lower(plainName(string(rec.id)))
	case name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return w.im.corrupt("a file is called %q", name)
	}
	path := name
	if d.path != "" {
		path = d.path + "/" + name
	}
	switch {
	case rr.child != 0:
		return w.moved(isoDir{path: path, depth: d.depth + 1, off: rr.child * w.v.block})
	case rec.isDir():
		return w.push(isoDir{path: path, depth: d.depth + 1, off: rec.off, size: rec.size})
	case rec.gaps:
		return w.im.unsupported("interleaved file %q", path)
	case rr.mode&posixTypeMask != 0 && rr.mode&posixTypeMask != tree.ModeRegular:
		return nil // a symlink or device: has no content
	}
	if err := w.used.take(w.im, 0, int64(len(path))); err != nil {
		return err
	}
	w.open, w.id = &isoFile{path: path, unpacked: rr.unpacked}, string(rec.id)
	return w.extent(rec)
}

// rockRidge returns what the system use area of rec tells; nothing if the tree has no Rock Ridge.
func (w *isoWalk) rockRidge(rec isoRecord) (rockRidge, error) {
	if !w.im.rockRidge || w.v.joliet {
		return rockRidge{}, nil
	}
	return w.im.parseRockRidge(rec.system[min(w.im.skip, len(rec.system)):], w.v.block, &w.used)
}

// moved takes a directory that is known by its place only; its own first record has its size.
func (w *isoWalk) moved(d isoDir) error {
	b := make([]byte, 34)
	if err := w.im.read(b, d.off, "directory "+quoted(d.path)); err != nil {
		return err
	}
	b[0], b[32] = 34, 1 // its system use area is of no interest
	dot, err := w.im.parseRecord(b, w.v.block)
	if err != nil {
		return err
	}
	if dot.off != d.off || !dot.isDir() {
		return w.im.corrupt("%q is not a directory", d.path)
	}
	d.size = dot.size
	return w.push(d)
}

// extent adds rec to the open file and hands the file out if it is the last.
func (w *isoWalk) extent(rec isoRecord) error {
	f := w.open
	if rec.size > 0 {
		if err := w.im.within(rec.off, rec.size, "file "+quoted(f.path)); err != nil {
			return err
		}
		if n := len(f.extents); n > 0 && f.extents[n-1].Off+f.extents[n-1].Len == rec.off {
			f.extents[n-1].Len += rec.size
		} else {
			f.extents = append(f.extents, tree.Extent{Off: rec.off, Len: rec.size})
		}
		f.length += rec.size
	}
	if rec.hasMore() {
		return nil
	}
	w.open = nil
	if f.length == 0 {
		return nil
	}
	return w.visit(*f)
}

// plainName makes of an identifier the name that Linux shows: without version, end dot, and what a path cannot hold.
func plainName(id string) string {
	id = strings.TrimSuffix(id, ";1")
	for len(id) > 1 && strings.HasSuffix(id, ".") {
		id = id[:len(id)-1]
	}
	return strings.NewReplacer(";", ".", "/", ".", "\x00", ".").Replace(id)
}

// lower makes ASCII letters small and leaves all other bytes, which need not be UTF-8, alone.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

func ucs2(b []byte) string {
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = binary.BigEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(units))
}
