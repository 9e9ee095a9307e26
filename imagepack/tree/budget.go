package tree

import "fmt"

// MaxMemory is what a Budget allows without another limit, in bytes: with the encoders, pack stays below 1 GB of resident
// memory. It is enough for about 750,000 files with names of 20 bytes.
const MaxMemory = 640 << 20

// What is taken of memory, by the tree and by the plan of an image made of it, in bytes. Tars of 202,000 and 606,000
// entries, mostly files of 20 bytes, took 333 and 662 MB (pack --level fastest, VmHWM): 815 bytes for each more.
const (
	inodeCost  = 640 // an inode, its place in the image, its bytes there, and entries of maps
	entryCost  = 96  // an entry of a directory, next to its name
	xattrCost  = 64  // an attribute of an inode, next to its name and value, which inodes may share
	extentCost = 160 // a part of a file that is not a hole
)

// A Budget bounds the memory that a tree and the image made of it take: an image of a few megabytes may hold
// millions of files. A nil Budget has no bound. Not safe for concurrent use.
type Budget struct {
	limit, left int64 // bytes
	inodes      int64 // so far
}

// NewBudget returns a Budget of limit bytes, or of MaxMemory if limit is 0.
func NewBudget(limit int64) *Budget {
	if limit == 0 {
		limit = MaxMemory
	}
	return &Budget{limit: limit, left: limit}
}

// A BudgetError tells that an input has more files than a Budget allows.
type BudgetError struct {
	Limit  int64 // bytes
	Inodes int64 // files that fitted
}

func (e *BudgetError) Error() string {
	return fmt.Sprintf("too many files: after %d of them, they take more than %d MB of memory; pack a part of them, or an image as it is with --fs keep",
		e.Inodes, e.Limit>>20)
}

// Take counts n bytes of which the other methods do not know.
func (b *Budget) Take(n int64) error {
	if b == nil {
		return nil
	}
	if n > b.left {
		return &BudgetError{b.limit, b.inodes}
	}
	b.left -= n
	return nil
}

// Inode counts an inode, all but its entries and the values of attributes, whose first path has pathLen bytes.
func (b *Budget) Inode(n *Inode, pathLen int) error {
	cost := inodeCost + 2*int64(pathLen) + 2*int64(len(n.LinkTarget)) + xattrCost*int64(len(n.Xattrs)) + extentCost*int64(len(n.Data))
	if err := b.Take(cost); err != nil {
		return err
	}
	if b != nil {
		b.inodes++
	}
	return nil
}

// Entry counts an entry of a directory.
func (b *Budget) Entry(name string) error { return b.Take(entryCost + 2*int64(len(name))) }

// Xattr counts the name and the value of an attribute, once for all inodes that share them.
func (b *Budget) Xattr(x Xattr) error { return b.Take(2 * int64(len(x.Name)+len(x.Value))) }
