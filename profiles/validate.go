package profiles

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Validate tells the first rule that the run breaks, or nil. Write refuses and Read never returns a run that
// breaks one.
func (r *Run) Validate() error {
	h := &r.Header
	switch {
	case h.ImageSize < 0:
		return fmt.Errorf("image size %d is negative", h.ImageSize)
	case h.Readahead < 0:
		return fmt.Errorf("readahead %d is negative", h.Readahead)
	case h.Duration < 0:
		return fmt.Errorf("duration %d is negative", h.Duration)
	case len(r.Touches) > MaxTouches || len(r.FileTouches) > MaxTouches:
		return fmt.Errorf("%d touches and %d file touches, more than %d of a kind", len(r.Touches), len(r.FileTouches), MaxTouches)
	}
	for _, s := range append([]string{h.Filesystem, h.Method, h.Kernel, h.Machine, h.End}, h.Command...) {
		if len(s) > maxString {
			return fmt.Errorf("a header text of %d bytes is over the limit of %d", len(s), maxString)
		}
	}
	if err := r.validateTouches(); err != nil {
		return err
	}
	var last time.Duration
	for i, m := range r.Marks {
		if m.At < last {
			return fmt.Errorf("mark %d (%q) at %v comes after one at %v", i, m.Name, m.At, last)
		}
		if len(m.Name) > maxString {
			return fmt.Errorf("mark %d has a name of %d bytes, over the limit of %d", i, len(m.Name), maxString)
		}
		last = m.At
	}
	last = 0
	for i := range r.FileTouches {
		t := &r.FileTouches[i]
		if t.At < last {
			return fmt.Errorf("file touch %d at %v comes after one at %v", i, t.At, last)
		}
		last = t.At
		if err := t.validate(); err != nil {
			return fmt.Errorf("file touch %d of %.100q: %w", i, t.Path, err)
		}
	}
	return nil
}

func (t *FileTouch) validate() error {
	if err := validPath(t.Path); err != nil {
		return err
	}
	switch t.Kind {
	case KindData, KindDir:
		if t.FileOff < 0 || t.Len <= 0 || t.FileOff > math.MaxInt64-t.Len {
			return fmt.Errorf("[%d +%d) is no range of a file", t.FileOff, t.Len)
		}
	case KindInode, KindMeta:
		if t.FileOff != 0 || t.Len != 0 {
			return fmt.Errorf("kind %d has the range [%d +%d)", t.Kind, t.FileOff, t.Len)
		}
	default:
		return fmt.Errorf("kind %d is unknown", t.Kind)
	}
	return nil
}

func validPath(p string) error {
	switch {
	case len(p) > MaxPathLen:
		return fmt.Errorf("a path of %d bytes is over the limit of %d", len(p), MaxPathLen)
	case strings.HasPrefix(p, "/") || strings.HasSuffix(p, "/"):
		return fmt.Errorf("the path begins or ends with a slash")
	case strings.Contains(p, "\x00"):
		return fmt.Errorf("the path has a NUL in it")
	}
	return nil
}

// validateTouches checks order, alignment, bounds, and that no byte stands in two touches.
func (r *Run) validateTouches() error {
	size := r.Header.ImageSize
	var last time.Duration
	for i, t := range r.Touches {
		if t.At < last {
			return fmt.Errorf("touch %d at %v comes after one at %v", i, t.At, last)
		}
		last = t.At
		if t.ImageOff < 0 || t.Len <= 0 || t.Len > size || t.ImageOff > size-t.Len {
			return fmt.Errorf("touch %d is [%d +%d) of an image of %d bytes", i, t.ImageOff, t.Len, size)
		}
		if t.ImageOff%PageSize != 0 || t.Len%PageSize != 0 && t.ImageOff+t.Len != size {
			return fmt.Errorf("touch %d is [%d +%d), not whole pages", i, t.ImageOff, t.Len)
		}
	}
	byOff := slices.Clone(r.Touches)
	slices.SortFunc(byOff, func(a, b Touch) int { return int(max(-1, min(1, a.ImageOff-b.ImageOff))) })
	for i := 1; i < len(byOff); i++ {
		if a, b := byOff[i-1], byOff[i]; a.ImageOff+a.Len > b.ImageOff {
			return fmt.Errorf("touches [%d +%d) and [%d +%d) overlap", a.ImageOff, a.Len, b.ImageOff, b.Len)
		}
	}
	return nil
}
