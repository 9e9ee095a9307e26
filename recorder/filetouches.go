package recorder

import (
	"bootprof/imagepack/imagemap"
	"bootprof/profiles"
)

// fileTouches tells the touches by path. A touch becomes a file touch for each thing the map has there: the
// part that was touched of a file or directory stored plainly, all that a compressed block holds of one, an
// inode, or metadata without a path. An inode, a compressed block and the metadata are told at their first
// touch only. Paths that are too long for a profile are left out.
func fileTouches(m *imagemap.Map, touches []profiles.Touch) []profiles.FileTouch {
	if m == nil {
		return nil
	}
	var out []profiles.FileTouch
	seen := make(map[imagemap.Segment]bool)
	for _, t := range touches {
		for _, s := range m.At(t.ImageOff, t.Len) {
			if len(s.Path) > profiles.MaxPathLen {
				continue
			}
			if ft, key := fileTouch(s, t); !seen[key] {
				if key != (imagemap.Segment{}) {
					seen[key] = true
				}
				out = append(out, ft)
			}
		}
	}
	return out
}

// fileTouch returns the part of segment s that touch t needs, and what to remember it by so that it is told once;
// the zero key means that nothing can repeat, because touches are disjoint.
func fileTouch(s imagemap.Segment, t profiles.Touch) (ft profiles.FileTouch, key imagemap.Segment) {
	ft = profiles.FileTouch{At: t.At, Path: s.Path, Kind: profiles.Kind(s.Kind)}
	switch {
	case s.Kind == imagemap.Inode || s.Kind == imagemap.Meta:
		// By path, not by segment: a large inode may have several.
		return ft, imagemap.Segment{Path: s.Path, Kind: s.Kind}
	case s.FileLen == s.ImageLen:
		from := max(s.ImageOff, t.ImageOff)
		to := min(s.ImageOff+s.ImageLen, t.ImageOff+t.Len)
		ft.FileOff, ft.Len = s.FileOff+from-s.ImageOff, to-from
		return ft, imagemap.Segment{}
	default:
		ft.FileOff, ft.Len = s.FileOff, s.FileLen
		return ft, s
	}
}
