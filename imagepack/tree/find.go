package tree

import "strings"

// maxLinks is how many symlinks Find follows, as many as the kernel does.
const maxLinks = 40

// Find returns the inode at a path, and the path without symlinks, as a process with root as its root would find it. It
// is nil if there is nothing. A slash at the start means nothing.
func Find(root *Inode, path string) (*Inode, string) {
	at, names := []*Inode{root}, []string{} // the way from the root, and the names on it
	rest := strings.Split(path, "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		here := at[len(at)-1]
		switch {
		case !here.IsDir():
			return nil, ""
		case name == "" || name == ".":
			continue
		case name == "..":
			if len(at) > 1 {
				at, names = at[:len(at)-1], names[:len(names)-1]
			}
			continue
		}
		next := here.Lookup(name)
		if next == nil {
			return nil, ""
		}
		if next.Type() != ModeSymlink {
			at, names = append(at, next), append(names, name)
			continue
		}
		if links++; links > maxLinks {
			return nil, ""
		}
		if strings.HasPrefix(next.LinkTarget, "/") {
			at, names = at[:1], names[:0]
		}
		rest = append(strings.Split(next.LinkTarget, "/"), rest...)
	}
	return at[len(at)-1], strings.Join(names, "/")
}

// ReadFile returns the content of a regular file.
func (n *Inode) ReadFile() ([]byte, error) {
	b := make([]byte, n.Size)
	if n.Content == nil || n.Size == 0 {
		return b, nil
	}
	c, err := n.Content.Open()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if n, err := c.ReadAt(b, 0); n < len(b) {
		return nil, err // a ReaderAt has one when it reads less
	}
	return b, nil
}
