package profiles

import "strings"

// wholeFile is a length beyond any file that still can be added to an offset.
const wholeFile = 1 << 62

// Of tells whether the run was recorded on the image with this SHA-256. If so its touches are the image's own; if
// not, Rebase makes touches of that image from its file touches.
func (r *Run) Of(imageSHA256 [32]byte) bool { return r.Header.ImageSHA256 == imageSHA256 }

// Rebase turns the run's file touches into first touches of another image, in the same order and with the
// same times. find answers where that image keeps a part of a file; it gets the whole file's length as 1<<62,
// and its ranges need not be aligned. Touches are whole pages, no page twice; the last one may reach beyond
// an image whose size is not a multiple of PageSize.
//
// A compressed image hides which metadata was needed, so what a touch implies goes right before it, at the
// same time: reading a file or a directory needs its inode and, from the root down, the inode and all entries
// of every directory above it. A touched inode implies the inodes above it only: an inode is touched
// with its neighbours, whose directories the boot may never have looked at.
//
// Content that the other image keeps inside the inode (small files and directories of EROFS) is found there.
// lost is how many file touches found nothing, because the file is gone, or shorter. Metadata without a path
// is never counted.
func Rebase(run *Run, find func(path string, k Kind, fileOff, length int64) []Range) (touches []Touch, lost int) {
	b := rebaser{find: find, inodes: make(map[string]bool), dirs: make(map[string]bool)}
	for i := range run.FileTouches {
		t := &run.FileTouches[i]
		own := find(t.Path, t.Kind, t.FileOff, t.Len)
		if t.Kind == KindMeta {
			b.add(t, own)
			continue
		}
		if len(own) == 0 {
			own = find(t.Path, KindInode, 0, 0)
		}
		if len(own) == 0 {
			lost++
			continue
		}
		b.ancestors(t)
		b.inode(t, t.Path)
		b.add(t, own)
	}
	return b.touches, lost
}

type rebaser struct {
	find    func(string, Kind, int64, int64) []Range
	seen    PageSet
	inodes  map[string]bool // paths whose inode is in
	dirs    map[string]bool // paths whose entries are in
	touches []Touch
}

func (b *rebaser) add(t *FileTouch, rs []Range) {
	for _, r := range rs {
		for _, fresh := range b.seen.Add(r.ImageOff, r.Len) {
			b.touches = append(b.touches, Touch{At: t.At, ImageOff: fresh.ImageOff, Len: fresh.Len})
		}
	}
}

func (b *rebaser) inode(t *FileTouch, path string) {
	if !b.inodes[path] {
		b.inodes[path] = true
		b.add(t, b.find(path, KindInode, 0, 0))
	}
}

// ancestors adds the directories above t's path, from the root down.
func (b *rebaser) ancestors(t *FileTouch) {
	if t.Path == "" {
		return
	}
	for end := 0; end >= 0; {
		dir := t.Path[:end]
		b.inode(t, dir)
		if t.Kind != KindInode && !b.dirs[dir] {
			b.dirs[dir] = true
			b.add(t, b.find(dir, KindDir, 0, wholeFile))
		}
		from := end
		if end > 0 {
			from++ // past the slash
		}
		next := strings.IndexByte(t.Path[from:], '/')
		if next < 0 {
			return
		}
		end = from + next
	}
}
