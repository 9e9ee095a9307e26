package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// fills holds what the ways with Way.Fill have in their caches before the first round, by the index of the way.
type fills struct {
	work   string
	dirs   []string // "" without Fill
	failed []Result // with an Error if the filling run failed
}

func (f fills) remove() { os.RemoveAll(f.work) }

// fill runs the filling boots.
func (c Config) fill(ctx context.Context) (f fills, err error) {
	f = fills{dirs: make([]string, len(c.Ways)), failed: make([]Result, len(c.Ways))}
	if f.work, err = os.MkdirTemp("", "bench-fill-"); err != nil {
		return f, err
	}
	for i, w := range c.Ways {
		if w.Fill == nil {
			continue
		}
		dir := filepath.Join(f.work, fmt.Sprint(i))
		r, err := c.once(ctx, *w.Fill, 0, "", dir)
		if err != nil {
			err = fmt.Errorf("filling the cache of %s: %w", w.Name, err)
			if !c.Tolerant || ctx.Err() != nil {
				return f, errors.Join(err, os.RemoveAll(f.work))
			}
			f.failed[i] = Result{Way: w.Name, Error: OneLine(err, maxErrorBytes/2, maxErrorBytes/2)}
			continue
		}
		f.dirs[i] = dir
		fmt.Fprintf(c.Progress, "filled    %-18s %6.2f s  %6.1f MB\n", w.Name, r.Total, float64(r.LinkBytes)/1e6)
	}
	return f, nil
}

// copyCache makes dir a copy of from, holes and all, or an empty directory if from is "".
func copyCache(from, dir string) error {
	if from == "" {
		return os.Mkdir(dir, 0o755)
	}
	return command(exec.Command("cp", "-a", "--reflink=auto", "--sparse=always", from, dir))
}

// maxErrorBytes of an error go into a report.
const maxErrorBytes = 600

// OneLine is an error as a cell of a table can hold it: of a long one the first words and the last, of so many bytes at most.
// Words stay whole, as half a path could not be told from another one.
func OneLine(err error, head, tail int) string {
	words := strings.Fields(err.Error())
	s := strings.Join(words, " ")
	if len(s) <= head+tail {
		return s
	}
	first, last := "", ""
	for i := 0; len(first)+len(words[i]) < head; i++ {
		first += words[i] + " "
	}
	for i := len(words) - 1; len(last)+len(words[i]) < tail; i-- {
		last = " " + words[i] + last
	}
	return first + "..." + last
}
