package tree

import (
	"archive/tar"
	"errors"
	"fmt"
	"sort"
	"strings"
)

// maxTarSymlinks is how many symlinks one entry's path may lead through, as in the kernel.
const maxTarSymlinks = 40

// A tarBuilder holds the tree while entries may still be added and replaced.
type tarBuilder struct {
	root     *Inode
	children map[*Inode]map[string]*Inode // of directories, instead of Entries
	pending  []pendingLink
	memory   *Budget
}

// tarDirCost is what a directory's map takes until the tree is finished, in bytes.
const tarDirCost = 320

// A pendingLink is a hard link whose target has not come yet.
type pendingLink struct{ name, target string }

func newTarBuilder(memory *Budget) *tarBuilder {
	b := &tarBuilder{children: map[*Inode]map[string]*Inode{}, memory: memory}
	b.root = &Inode{Mode: ModeDir | 0o755}
	b.children[b.root] = map[string]*Inode{}
	return b
}

// take counts an inode that is to be called name. Its path is counted at the end, when it is known.
func (b *tarBuilder) take(n *Inode, name string) error {
	err := b.memory.Inode(n, 0)
	for _, x := range n.Xattrs {
		if err == nil {
			err = b.memory.Xattr(x)
		}
	}
	if err == nil && n.IsDir() {
		err = b.memory.Take(tarDirCost)
	}
	if err == nil {
		err = b.memory.Entry(name)
	}
	return err
}

// newDir makes a directory that no entry describes.
func (b *tarBuilder) newDir(name string) (*Inode, error) {
	n := &Inode{Mode: ModeDir | 0o755}
	b.children[n] = map[string]*Inode{}
	return n, b.take(n, name)
}

// splitTarName takes a name apart: without leading slashes, empty and "." components. The root gives none.
func splitTarName(name string) ([]string, error) {
	var out []string
	for c := range strings.SplitSeq(name, "/") {
		switch {
		case c == "" || c == ".":
			continue
		case c == "..":
			return nil, fmt.Errorf("the name %q leads out of its directory by \"..\"", name)
		case len(c) > 255:
			return nil, fmt.Errorf("a name of %d bytes is too long (limit 255)", len(c))
		case strings.Contains(c, "\x00"):
			return nil, fmt.Errorf("the name %q holds a NUL", name)
		}
		if out = append(out, c); len(out) > maxDepth {
			return nil, fmt.Errorf("more than %d directories deep", maxDepth)
		}
	}
	return out, nil
}

// dir finds the directory that the components lead to, through symlinks. It makes those that are missing,
// or returns nil if it must not.
func (b *tarBuilder) dir(components []string, create bool) (*Inode, error) {
	stack := []*Inode{b.root} // the way from the root, for ".." in symlinks
	links := 0
	for len(components) > 0 {
		c := components[0]
		components = components[1:]
		here := stack[len(stack)-1]
		switch c {
		case "", ".":
			continue
		case "..": // from a symlink; at the root it stays there
			stack = stack[:max(1, len(stack)-1)]
			continue
		}
		n := b.children[here][c]
		switch {
		case n == nil && !create:
			return nil, nil
		case len(stack) > maxDepth && (n == nil || n.IsDir()):
			return nil, fmt.Errorf("more than %d directories deep", maxDepth)
		case n == nil && len(c) > 255:
			return nil, fmt.Errorf("a name of %d bytes is too long (limit 255)", len(c))
		case n == nil:
			var err error
			if n, err = b.newDir(c); err != nil {
				return nil, err
			}
			b.children[here][c] = n
			stack = append(stack, n)
		case n.IsDir():
			stack = append(stack, n)
		case n.Type() == ModeSymlink:
			if links++; links > maxTarSymlinks || len(n.LinkTarget) > 4096 {
				return nil, fmt.Errorf("its path leads through too many or too long symlinks at %q", c)
			}
			if strings.HasPrefix(n.LinkTarget, "/") {
				stack = stack[:1]
			}
			components = append(strings.Split(n.LinkTarget, "/"), components...)
		default:
			return nil, fmt.Errorf("%q on its path is not a directory", c)
		}
	}
	return stack[len(stack)-1], nil
}

// find returns the inode of a name, or nil. The last component is not followed.
func (b *tarBuilder) find(name string) (*Inode, error) {
	components, err := splitTarName(name)
	if err != nil || len(components) == 0 {
		return nil, err
	}
	last := len(components) - 1
	d, err := b.dir(components[:last], false)
	if d == nil {
		return nil, err
	}
	return b.children[d][components[last]], nil
}

// add puts an entry into the tree.
func (b *tarBuilder) add(e *tarEntry, opts TarOptions) error {
	if e.hdr.Typeflag == typeVolumeLabel {
		return nil
	}
	components, err := splitTarName(e.hdr.Name)
	if err != nil {
		return err
	}
	if e.hdr.Typeflag == tar.TypeLink {
		if len(components) == 0 {
			return errors.New("the root cannot be a hard link")
		}
		return b.link(components, e.hdr)
	}
	n, err := e.inode(opts)
	if err != nil {
		return err
	}
	if len(components) == 0 {
		if !n.IsDir() {
			return errors.New("the root is not a directory")
		}
		*b.root = *n
		return b.take(n, "")
	}
	last := len(components) - 1
	if err := b.take(n, components[last]); err != nil {
		return err
	}
	parent, err := b.dir(components[:last], true)
	if err != nil {
		return err
	}
	old := b.children[parent][components[last]]
	if n.IsDir() {
		if old != nil && old.IsDir() {
			*old = *n // the inode stays, and with it what is below
			return nil
		}
		b.children[n] = map[string]*Inode{}
	}
	b.children[parent][components[last]] = n
	return nil
}

// link gives an inode another name, at once if it is there, else at the end of the archive.
func (b *tarBuilder) link(components []string, h *tar.Header) error {
	target, err := b.find(h.Linkname)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", h.Linkname, err)
	}
	last := len(components) - 1
	parent, err := b.dir(components[:last], true)
	if err != nil {
		return err
	}
	if target == nil {
		delete(b.children[parent], components[last])
		if err := b.memory.Take(int64(64 + len(h.Name) + len(h.Linkname))); err != nil {
			return err
		}
		b.pending = append(b.pending, pendingLink{h.Name, h.Linkname})
		return nil
	}
	if target.IsDir() {
		return fmt.Errorf("hard link to %q, which is a directory", h.Linkname)
	}
	b.children[parent][components[last]] = target
	return b.memory.Entry(components[last])
}

// linkPending makes the links that came before their targets. Links to links may come in any order, so
// it goes round for as long as that helps.
func (b *tarBuilder) linkPending() error {
	for len(b.pending) > 0 {
		round := b.pending
		b.pending = nil
		for _, p := range round {
			if n, err := b.find(p.name); n != nil && err == nil {
				continue // a later entry took the name
			}
			components, err := splitTarName(p.name)
			if err == nil {
				err = b.link(components, &tar.Header{Name: p.name, Linkname: p.target})
			}
			if errors.As(err, new(*BudgetError)) {
				return err
			}
			if err != nil {
				return &TarError{p.name, err}
			}
		}
		if len(b.pending) == len(round) {
			p := round[0]
			return &TarError{p.name, fmt.Errorf("hard link to %q, which is not in the archive", p.target)}
		}
	}
	return nil
}

// finish fills the Entries of the directory n, whose path is rel, and of all below, but for what is excluded.
func (b *tarBuilder) finish(n *Inode, rel string, ex excludes) error {
	if rel != "" {
		rel += "/"
	}
	children := b.children[n]
	n.Entries = make([]Entry, 0, len(children))
	for name, c := range children {
		if ex.match(rel + name) {
			continue
		}
		n.Entries = append(n.Entries, Entry{name, c})
		if err := b.memory.Take(2 * int64(len(rel)+len(name))); err != nil {
			return err
		}
		if !c.IsDir() {
			continue
		}
		if err := b.finish(c, rel+name, ex); err != nil {
			return err
		}
	}
	sort.Slice(n.Entries, func(i, j int) bool { return n.Entries[i].Name < n.Entries[j].Name })
	return nil
}
