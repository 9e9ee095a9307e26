package compare

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

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

// WithoutPaths returns the comparison with the machine's directories shortened where messages of programs name them: build, the
// working directory, and those that bench makes for a run.
func (r *Comparison) WithoutPaths(build string) (*Comparison, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	if build, err = filepath.Abs(build); err != nil {
		return nil, err
	}
	wd, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	s := string(b)
	if build != "/" {
		s = strings.ReplaceAll(s, inJSON(build)+"/", "build/")
	}
	if wd != "/" {
		s = strings.ReplaceAll(s, inJSON(wd)+"/", "")
	}
	s = regexp.MustCompile(regexp.QuoteMeta(inJSON(os.TempDir()))+`/bench-[a-z]+-[0-9]+`).ReplaceAllLiteralString(s, "WORK")
	short := new(Comparison)
	return short, json.Unmarshal([]byte(s), short)
}

// inJSON is a path as it is written within a JSON string.
func inJSON(path string) string {
	b, _ := json.Marshal(path) // a string can always be written
	return string(b[1 : len(b)-1])
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
