package relayout

import (
	"math"
	"sort"
	"strings"

	"bootprof/imagepack/squashfs"
)

const never = math.MaxInt // first touch of what is not touched

// A heat tells which inodes a boot touches, and when first: an index in Options.Order. Whoever touches a file
// touches the directories above it.
type heat struct {
	root  *squashfs.RawInode
	first map[*squashfs.RawInode]int
	paths map[string]*squashfs.RawInode                        // resolved, nil if there is no such path
	names map[*squashfs.RawInode]map[string]*squashfs.RawInode // entries of directories on resolved paths
}

func newHeat(root *squashfs.RawInode) *heat {
	return &heat{
		root: root, first: map[*squashfs.RawInode]int{}, paths: map[string]*squashfs.RawInode{},
		names: map[*squashfs.RawInode]map[string]*squashfs.RawInode{},
	}
}

// touch notes that touch i is of path, and returns its inode or nil.
func (h *heat) touch(path string, i int) *squashfs.RawInode {
	n, known := h.paths[path]
	if !known {
		if path == "" {
			n = h.root
		} else {
			dir, name := "", path
			if s := strings.LastIndexByte(path, '/'); s >= 0 {
				dir, name = path[:s], path[s+1:]
			}
			if d := h.touch(dir, i); d != nil {
				n = h.entry(d, name)
			}
		}
		h.paths[path] = n
	}
	if n != nil {
		if _, ok := h.first[n]; !ok {
			h.first[n] = i
		}
	}
	return n
}

func (h *heat) entry(dir *squashfs.RawInode, name string) *squashfs.RawInode {
	m := h.names[dir]
	if m == nil {
		m = make(map[string]*squashfs.RawInode, len(dir.Entries))
		for _, e := range dir.Entries {
			m[e.Name] = e.Inode
		}
		h.names[dir] = m
	}
	return m[name]
}

// inodeOrder returns the inodes in the order of the new table: touched files by first touch, other files as
// they are given, then directories, each after those in it: first those that are not touched. These have no touched
// ones below them.
func (h *heat) inodeOrder(inodes []*squashfs.RawInode) []*squashfs.RawInode {
	var hot, cold, hotDirs, coldDirs []*squashfs.RawInode
	for _, n := range inodes {
		_, touched := h.first[n]
		switch {
		case n.Type == squashfs.RawDir:
		case touched:
			hot = append(hot, n)
		default:
			cold = append(cold, n)
		}
	}
	sort.SliceStable(hot, func(i, j int) bool { return h.first[hot[i]] < h.first[hot[j]] })
	var dirs func(d *squashfs.RawInode)
	dirs = func(d *squashfs.RawInode) {
		for _, e := range d.Entries {
			if e.Inode.Type == squashfs.RawDir {
				dirs(e.Inode)
			}
		}
		if _, touched := h.first[d]; touched {
			hotDirs = append(hotDirs, d)
		} else {
			coldDirs = append(coldDirs, d)
		}
	}
	dirs(h.root)
	return append(append(append(hot, cold...), coldDirs...), hotDirs...)
}
