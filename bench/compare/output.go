package compare

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"bootprof/bench"
)

// resultsJSON is the file that everything else can be made of again.
const resultsJSON = "results.json"

// Read reads a results.json.
func Read(name string) (*Comparison, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var r Comparison
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return &r, nil
}

// Write writes results.json, results.md and the plots into a directory, which it makes.
func (r *Comparison) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	errs := []error{
		bench.WriteFile(filepath.Join(dir, resultsJSON), func(w io.Writer) error {
			enc := json.NewEncoder(w)
			enc.SetIndent("", "  ")
			return enc.Encode(r)
		}),
		bench.WriteFile(filepath.Join(dir, "results.md"), r.WriteMarkdown),
	}
	for name, p := range r.plots() {
		errs = append(errs, bench.WriteFile(filepath.Join(dir, name+".svg"), func(w io.Writer) error {
			_, err := io.WriteString(w, p.SVG())
			return err
		}))
	}
	return errors.Join(errs...)
}
