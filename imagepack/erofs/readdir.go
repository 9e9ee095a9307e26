package erofs

import (
	"bytes"

	"bootprof/imagepack/imagemap"
)

// walk visits all inodes in the order of tree.Walk, each under its first path.
func (w *walker) walk() error {
	type dirState struct {
		path    string
		entries []dirent
	}
	root, err := w.visit(w.rootNid, "")
	if err != nil {
		return err
	}
	if root == nil {
		return corrupt(w.metaBase+int64(w.rootNid)*nidUnit, "the root is not a directory")
	}
	stack := []dirState{{"", root}}
	for len(stack) > 0 {
		d := &stack[len(stack)-1]
		if len(d.entries) == 0 {
			stack = stack[:len(stack)-1]
			continue
		}
		e := d.entries[0]
		d.entries = d.entries[1:]
		if w.seen[e.nid] {
			continue
		}
		path := e.name
		if d.path != "" {
			path = d.path + "/" + e.name
		}
		if w.paths -= int64(len(path)); w.paths < 0 || len(path) > maxPath {
			return corrupt(0, "directories are nested too deep: a path of %d bytes", len(path))
		}
		below, err := w.visit(e.nid, path)
		if err != nil {
			return err
		}
		if len(below) > 0 {
			stack = append(stack, dirState{path, below})
		}
	}
	return nil
}

// A dirent is an entry of a directory.
type dirent struct {
	name string
	nid  uint64
}

// readDir reads the entries of a directory, without "." and "..", from its content. The result is not nil.
func (w *walker) readDir(n *inode, content []imagemap.Segment) ([]dirent, error) {
	entries := []dirent{}
	for _, s := range content {
		if err := w.spend(s.ImageOff, s.ImageLen); err != nil {
			return nil, err
		}
		for done := int64(0); done < s.ImageLen; {
			b := make([]byte, min(s.ImageLen-done, 1<<w.blkBits))
			at := s.ImageOff + done
			if err := w.r.read(b, at); err != nil {
				return nil, err
			}
			var err error
			if entries, err = parseDirents(entries, b, at); err != nil {
				return nil, err
			}
			done += int64(len(b))
		}
	}
	return entries, nil
}

// parseDirents appends the entries of one directory block, which lies at imageOff.
func parseDirents(entries []dirent, b []byte, imageOff int64) ([]dirent, error) {
	if len(b) < direntSize {
		return nil, corrupt(imageOff, "a directory block of %d bytes", len(b))
	}
	first := int(le.Uint16(b[8:])) // the first name begins where the records end
	if first < direntSize || first%direntSize != 0 || first > len(b) {
		return nil, corrupt(imageOff, "directory records end at %d of a block of %d bytes", first, len(b))
	}
	for d := 0; d < first; d += direntSize {
		start, end := int(le.Uint16(b[d+8:])), len(b)
		if d+direntSize < first {
			end = int(le.Uint16(b[d+direntSize+8:]))
		}
		if start < first || start > end || end > len(b) {
			return nil, corrupt(imageOff+int64(d), "a name at [%d, %d) of a directory block", start, end)
		}
		name := b[start:end]
		if d+direntSize == first { // only the last name may be padded
			if i := bytes.IndexByte(name, 0); i >= 0 {
				name = name[:i]
			}
		}
		if len(name) == 0 || len(name) > maxName || bytes.ContainsAny(name, "/\x00") {
			return nil, corrupt(imageOff+int64(d), "the file name %.80q", name)
		}
		if s := string(name); s != "." && s != ".." {
			entries = append(entries, dirent{s, le.Uint64(b[d:])})
		}
	}
	return entries, nil
}
