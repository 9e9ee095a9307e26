package tree

import (
	"fmt"
	"path"
	"strings"
)

// excludes are compiled patterns.
type excludes []string

// compileExcludes checks exclude patterns. They are those of path.Match. One with a slash in it is matched
// against the whole path in the tree ("/boot", "var/cache/*"), any other against the last name ("*.o"). What
// matches is left out with everything below it, so "proc/*" leaves an empty directory.
func compileExcludes(patterns []string) (excludes, error) {
	var ex excludes
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil || strings.Trim(p, "/") == "" {
			return nil, fmt.Errorf("exclude pattern %q: not a valid pattern", p)
		}
		ex = append(ex, p)
	}
	return ex, nil
}

func (ex excludes) match(rel string) bool {
	for _, p := range ex {
		name := rel
		if q := strings.TrimSuffix(p, "/"); !strings.Contains(q, "/") {
			name = path.Base(rel)
		}
		if ok, _ := path.Match(strings.Trim(p, "/"), name); ok {
			return true
		}
	}
	return false
}
