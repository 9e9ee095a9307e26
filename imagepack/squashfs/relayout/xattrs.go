package relayout

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"

	"bootprof/imagepack/squashfs"
	"bootprof/imagepack/tree"
)

// xattrPrefixes are the names that squashfs has room for, by type.
var xattrPrefixes = []string{"user.", "trusted.", "security."}

const (
	xattrOutOfLine = 0x100 // in the type: the value is the position of another's
	minShared      = 128   // bytes of a value from which on it is not stored twice
)

// An xattrWriter collects the attribute tables. Inodes with the same attributes have a set of them in common.
type xattrWriter struct {
	enc     encoder
	buf     bytes.Buffer // what list wrote
	list    metaWriter
	ids     []byte // entries of the table of sets
	sets    map[[sha256.Size]byte]uint32
	shared  map[[sha256.Size]byte]bool   // long values by digest: whether several inodes have them
	values  map[[sha256.Size]byte]uint64 // positions of those that are shared and written
	dropped int
}

func newXattrWriter(enc encoder) *xattrWriter {
	w := &xattrWriter{enc: enc, sets: map[[sha256.Size]byte]uint32{}, shared: map[[sha256.Size]byte]bool{}, values: map[[sha256.Size]byte]uint64{}}
	w.list = metaWriter{out: &w.buf, enc: enc}
	return w
}

// prepare notes the attributes of all inodes below root, to know which values are shared.
func (w *xattrWriter) prepare(root *tree.Inode) error {
	seen := map[*tree.Inode]bool{}
	return tree.Walk(root, func(_ string, n *tree.Inode) error {
		if len(n.Xattrs) == 0 || seen[n] {
			return nil
		}
		seen[n] = true
		for _, x := range n.Xattrs {
			if len(x.Value) >= minShared {
				sum := sha256.Sum256(x.Value)
				_, known := w.shared[sum]
				w.shared[sum] = known
			}
		}
		return nil
	})
}

// add returns the set of the attributes, or NoXattr. What squashfs does not have is counted and left out.
func (w *xattrWriter) add(attrs []tree.Xattr) (uint32, error) {
	type attr struct {
		typ         uint16
		name, value []byte
	}
	le := binary.LittleEndian
	var set []attr
	var key []byte
	for _, x := range attrs {
		typ := 0
		for typ < len(xattrPrefixes) && !strings.HasPrefix(x.Name, xattrPrefixes[typ]) {
			typ++
		}
		if typ == len(xattrPrefixes) {
			w.dropped++
			continue
		}
		name := x.Name[len(xattrPrefixes[typ]):]
		if name == "" || len(x.Name) > 255 || len(x.Value) > maxXattrLen {
			return 0, fmt.Errorf("attribute %q of %d bytes: a name has up to 255 bytes, a value up to %d", x.Name, len(x.Value), maxXattrLen)
		}
		set = append(set, attr{uint16(typ), []byte(name), x.Value})
		key = append(append(key, x.Name...), 0)
		key = append(le.AppendUint32(key, uint32(len(x.Value))), x.Value...)
	}
	if len(set) == 0 {
		return squashfs.NoXattr, nil
	}
	sum := sha256.Sum256(key)
	if id, ok := w.sets[sum]; ok {
		return id, nil
	}
	id := uint32(len(w.sets))
	w.sets[sum] = id
	size := 0
	for i, a := range set {
		size += len(xattrPrefixes[a.typ]) + len(a.name) + 1 + len(a.value) // as listxattr and getxattr return it
		if len(a.value) < minShared {
			continue
		}
		sum := sha256.Sum256(a.value)
		if !w.shared[sum] {
			continue
		}
		at, written := w.values[sum]
		if !written {
			at = w.list.ref()
			w.values[sum] = at
			if err := w.value(a.value); err != nil {
				return 0, err
			}
		}
		set[i].typ |= xattrOutOfLine
		set[i].value = le.AppendUint64(nil, at)
	}
	ref := w.list.ref()
	for _, a := range set {
		b := le.AppendUint16(le.AppendUint16(nil, a.typ), uint16(len(a.name)))
		if _, err := w.list.Write(append(b, a.name...)); err != nil {
			return 0, err
		}
		if err := w.value(a.value); err != nil {
			return 0, err
		}
	}
	w.ids = le.AppendUint64(w.ids, ref)
	w.ids = le.AppendUint32(le.AppendUint32(w.ids, uint32(len(set))), uint32(size))
	return id, nil
}

// value writes a value with its length.
func (w *xattrWriter) value(v []byte) error {
	if _, err := w.list.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(v)))); err != nil {
		return err
	}
	_, err := w.list.Write(v)
	return err
}

// finish ends the list of attributes. It returns what writes the tables, nil if there are no attributes.
func (w *xattrWriter) finish() (func(out *seqWriter) (uint64, error), error) {
	if err := w.list.flush(); err != nil {
		return nil, err
	}
	if len(w.sets) == 0 {
		return nil, nil
	}
	return func(out *seqWriter) (uint64, error) {
		start := out.off
		if _, err := out.Write(w.buf.Bytes()); err != nil {
			return 0, err
		}
		ids := metaWriter{out: out, enc: w.enc}
		first := out.off
		if _, err := ids.Write(w.ids); err != nil {
			return 0, err
		}
		if err := ids.flush(); err != nil {
			return 0, err
		}
		for i := range ids.starts {
			ids.starts[i] += first
		}
		return writeXattrHead(out, start, uint32(len(w.sets)), ids.starts)
	}, nil
}

// moveXattrs moves the attributes, whose positions are counted from their own start, and the blocks of the
// attribute sets.
func (r *relayouter) moveXattrs(out *seqWriter) (uint64, error) {
	start, ids := out.off, r.raw.XattrIDs
	if err := out.copy(r.src.ReadStored, r.raw.XattrStart, ids[0]-r.raw.XattrStart); err != nil {
		return 0, err
	}
	var starts []int64
	for i, id := range ids {
		n, err := r.src.StoredMetaLen(id)
		if err != nil {
			return 0, err
		}
		if i+1 < len(ids) && id+n > ids[i+1] {
			return 0, corrupt("blocks of attribute sets overlap at %d", id)
		}
		starts = append(starts, out.off)
		if err := out.copy(r.src.ReadStored, id, n); err != nil {
			return 0, err
		}
	}
	return writeXattrHead(out, start, r.raw.XattrCount, starts)
}

// writeXattrHead writes what tells where the attributes and their sets are, and returns its position.
func writeXattrHead(out *seqWriter, start int64, count uint32, starts []int64) (uint64, error) {
	at := uint64(out.off)
	b := binary.LittleEndian.AppendUint64(nil, uint64(start))
	b = binary.LittleEndian.AppendUint32(b, count)
	if _, err := out.Write(append(b, 0, 0, 0, 0)); err != nil {
		return 0, err
	}
	return at, writePointers(out, 0, starts)
}
