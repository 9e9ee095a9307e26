package mountclient

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/bpk"
	"bootprof/internal/cachefile"
)

// A cache directory can have a limit. Over it, packs that nobody uses go first, the one last used longest ago before the
// others, and then chunks of this pack outside its boot zone: those that are left from earlier runs and were not asked for
// yet, then in the order in which they came. What readers use again is in the kernel's page cache, which
// does not tell: an order by use is not to be had. Boot pages stay, even over the limit.

// errLimit tells that an image cannot become local.
type errLimit struct{ image, limit int64 }

func (e *errLimit) Error() string {
	return fmt.Sprintf("it takes %d MB, and the cache may have %d MB (--cache-size)", e.image/1e6, e.limit/1e6)
}

// ParseSize reads a number of bytes, with the suffix K, M or G (of 1024).
func ParseSize(s string) (bytes int64, err error) {
	digits, shift := s, 0
	for i, unit := range []string{"K", "M", "G"} {
		if d, ok := strings.CutSuffix(s, unit); ok {
			digits, shift = d, 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 1 || n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("%q: want a number of bytes such as 500M or 2G", s)
	}
	return n << shift, nil
}

// limitTo bounds the directory, which is held open as its path may lead elsewhere later. isBoot tells of pages that stay.
func (c *cache) limitTo(bytes int64, dir *os.File, digest [32]byte, isBoot func(page int64) bool) {
	c.mu.Lock()
	c.limit, c.dir, c.own, c.isBoot = bytes, dir, fmt.Sprintf("%x", digest), isBoot
	c.mu.Unlock()
	c.wakeUp()
}

// shrink takes pages out until the directory is within its limit. It is called by the writer only, so no record is written
// of pages that go.
func (c *cache) shrink() error {
	c.mu.Lock()
	limit := c.limit
	c.mu.Unlock()
	if limit == 0 {
		return nil
	}
	others, total, err := c.packs()
	if err != nil {
		return err
	}
	for _, o := range others {
		total += o.bytes
	}
	for _, o := range others {
		if total <= limit {
			return nil
		}
		if c.removePack(o.hex) {
			total -= o.bytes
		}
	}
	var gone []byte // records of what goes: they, too, take room
	for total+(int64(len(gone))+bpk.PageSize-1)/bpk.PageSize*bpk.PageSize > limit {
		r, ok := c.oldest()
		if !ok {
			break // nothing but boot pages
		}
		before := usage(c.store.f)
		if err := c.store.drop(r); err != nil {
			return err
		}
		c.evicted.Add(r.Pages)
		gone = cachefile.Record{Range: r}.Append(gone)
		total -= max(before-usage(c.store.f), 0)
	}
	return c.append(gone)
}

// usage returns the bytes that a file takes on its disk.
func usage(f *os.File) int64 {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return 0
	}
	return st.Blocks * 512
}

// oldest takes the range whose turn it is to go out of the queue; false: there is none.
func (c *cache) oldest() (bpk.Range, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for ; c.passed < len(c.old); c.passed++ {
		rec := &c.old[c.passed]
		if rec.Pages > 0 && !c.isBoot(rec.Page) {
			r := rec.Range
			rec.Pages = 0
			return r, true
		}
	}
	for len(c.order) > 0 {
		r := c.order[0]
		c.order = c.order[1:]
		if !c.isBoot(r.Page) {
			return r, true
		}
	}
	return bpk.Range{}, false
}

// An otherPack is what a cache directory has of another pack.
type otherPack struct {
	hex   string
	bytes int64
	used  time.Time // the youngest change of one of its files
}

// packs returns the other packs, the one last used longest ago first, and the bytes that this one takes.
func (c *cache) packs() (others []otherPack, ownBytes int64, err error) {
	d, err := openIn(c.dir, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, 0, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, 0, err
	}
	packs := make(map[string]*otherPack)
	for _, name := range names {
		hex, ext, _ := strings.Cut(name, ".")
		var st unix.Stat_t
		if len(hex) != 64 || !slices.Contains(packFiles, "."+ext) || unix.Fstatat(int(c.dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			continue
		}
		p := packs[hex]
		if p == nil {
			p = &otherPack{hex: hex}
			packs[hex] = p
		}
		p.bytes += st.Blocks * 512
		if t := time.Unix(st.Mtim.Unix()); t.After(p.used) {
			p.used = t
		}
	}
	for _, p := range packs {
		if p.hex == c.own {
			ownBytes = p.bytes
			continue
		}
		others = append(others, *p)
	}
	slices.SortFunc(others, func(a, b otherPack) int { return a.used.Compare(b.used) })
	return others, ownBytes, nil
}

// packFiles are the suffixes of a pack's files; the journal, whose lock says that the pack is in use, goes last.
var packFiles = []string{keptSuffix, keptSuffix + newFileSuffix, ".chunks", ".image", ".journal" + newFileSuffix, ".journal"}

// removePack removes the files of another pack, unless a client uses them or a loop device is on its image. It tells
// whether it did.
func (c *cache) removePack(hex string) bool {
	for _, ext := range []string{".journal", ".image"} {
		f, err := openIn(c.dir, hex+ext, unix.O_RDONLY)
		if err != nil {
			continue
		}
		defer f.Close()
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
			return false
		}
	}
	for _, ext := range packFiles {
		_ = unix.Unlinkat(int(c.dir.Fd()), hex+ext, 0)
	}
	c.log.Info("the cache is over its size: a pack that nobody uses was removed", "directory", c.dir.Name(), "file", filepath.Base(hex)+".image")
	return true
}
