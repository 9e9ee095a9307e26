package erofs

import (
	"bytes"
	"sort"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/tree"
)

// walk visits all inodes in the order of tree.Walk, each under its first path. For ReadTree it returns the root.
func (w *walker) walk() (*tree.Inode, error) {
	type dirState struct {
		path    string
		entries []dirent
		node    *tree.Inode // ReadTree only
	}
	below, root, err := w.visit(w.rootNid, "")
	if err != nil {
		return nil, err
	}
	if below == nil {
		return nil, corrupt(w.metaBase+int64(w.rootNid)*nidUnit, "the root is not a directory")
	}
	stack := []dirState{{"", below, root}}
	for len(stack) > 0 {
		d := &stack[len(stack)-1]
		if len(d.entries) == 0 {
			stack = stack[:len(stack)-1]
			continue
		}
		e := d.entries[0]
		d.entries = d.entries[1:]
		node, known := w.seen[e.nid]
		if known && !w.tree {
			continue
		}
		path := e.name
		if d.path != "" {
			path = d.path + "/" + e.name
		}
		if w.paths -= int64(len(path)); w.paths < 0 || len(path) > maxPath {
			return nil, corrupt(0, "directories are nested too deep: a path of %d bytes", len(path))
		}
		parent := d.node
		if !known {
			if below, node, err = w.visit(e.nid, path); err != nil {
				return nil, err
			}
			if len(below) > 0 {
				if len(stack) > maxDepth && w.tree {
					return nil, corrupt(0, "more than %d directories deep", maxDepth)
				}
				stack = append(stack, dirState{path, below, node})
			}
		} else if node.IsDir() {
			return nil, corrupt(w.metaBase+int64(e.nid)*nidUnit, "the directory %.200q has a second name", "/"+path)
		}
		if w.tree {
			parent.Entries = append(parent.Entries, tree.Entry{Name: e.name, Inode: node})
		}
	}
	return root, nil
}

// A dirent is an entry of a directory.
type dirent struct {
	name string
	nid  uint64
}

// readDir reads the entries of a directory, without "." and "..", from its content. The result is not nil.
func (w *walker) readDir(content []imagemap.Segment) ([]dirent, error) {
	entries := []dirent{}
	for _, s := range content {
		if err := w.spend(s.ImageOff, s.ImageLen); err != nil {
			return nil, err
		}
		for done := int64(0); done < s.ImageLen; {
			b := make([]byte, min(s.ImageLen-done, 1<<w.blkBits))
			at := s.ImageOff + done
			if err := w.meta.read(b, at); err != nil {
				return nil, err
			}
			known := len(entries)
			var err error
			if entries, err = parseDirents(entries, b, at); err != nil {
				return nil, err
			}
			for _, e := range entries[known:] {
				if err := w.memory.Entry(e.name); err != nil {
					return nil, err
				}
			}
			done += int64(len(b))
		}
	}
	return entries, nil
}

// sortEntries puts entries in the order of a tree. Most images have them in that order.
func sortEntries(entries []dirent, path string) error {
	less := func(i, j int) bool { return entries[i].name < entries[j].name }
	if !sort.SliceIsSorted(entries, less) {
		sort.SliceStable(entries, less)
	}
	for i := 1; i < len(entries); i++ {
		if entries[i-1].name == entries[i].name {
			return corrupt(0, "the directory %.200q has the name %q twice", "/"+path, entries[i].name)
		}
	}
	return nil
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
