package lab

import (
	"bytes"
	"io/fs"
	"path"
	"time"

	"bootprof/imagepack/tree"
)

// A treeFS gives the regular files of an image, below a directory of it, as an fs.FS. Symlinks are followed as in the image.
type treeFS struct {
	root *tree.Inode
	dir  string
}

// A treeFile is an open file, read whole.
type treeFile struct {
	*bytes.Reader
	name string
}

func (t treeFS) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	n, _ := tree.Find(t.root, path.Join(t.dir, name))
	if n == nil || n.Type() != tree.ModeRegular {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	b, err := n.ReadFile()
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &treeFile{bytes.NewReader(b), path.Base(name)}, nil
}

func (f *treeFile) Close() error               { return nil }
func (f *treeFile) Stat() (fs.FileInfo, error) { return f, nil }
func (f *treeFile) Name() string               { return f.name }
func (f *treeFile) Mode() fs.FileMode          { return 0o444 }
func (f *treeFile) ModTime() time.Time         { return time.Time{} }
func (f *treeFile) IsDir() bool                { return false }
func (f *treeFile) Sys() any                   { return nil }
