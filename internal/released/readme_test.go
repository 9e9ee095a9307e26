package released

import (
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"bootprof/internal/testrig"
)

// reader is a test in the last column of testdata/README.md: `package` TestName.
var reader = regexp.MustCompile("`([a-z/]+)` (Test[A-Za-z]+)")

// The README lists every file in testdata, and says which test reads it: there is no such row without a file, no
// file without a row, and no reader that does not exist.
func TestReadme(t *testing.T) {
	all := files(t, testrig.Testdata(t, ""))
	listed := map[string]bool{}
	for line := range strings.Lines(string(testrig.ReadFile(t, testrig.Testdata(t, "README.md")))) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || !strings.HasPrefix(line, "| `") {
			continue
		}
		pattern := strings.Trim(cells[1], " `")
		n := 0
		for _, file := range all {
			if ok, err := path.Match(pattern, file); err != nil {
				t.Fatalf("%s: %v", pattern, err)
			} else if ok {
				listed[file] = true
				n++
			}
		}
		if n == 0 {
			t.Errorf("%s is listed, and not there", pattern)
		}
		readers := reader.FindAllStringSubmatch(cells[4], -1)
		if len(readers) == 0 {
			t.Errorf("%s: no test is named that reads it", pattern)
		}
		for _, r := range readers {
			if !hasTest(t, r[1], r[2]) {
				t.Errorf("%s: %s has no %s", pattern, r[1], r[2])
			}
		}
	}
	for _, file := range all {
		if !listed[file] {
			t.Errorf("%s is not listed in README.md", file)
		}
	}
}

// hasTest says whether a package of the module has a test.
func hasTest(t *testing.T, pkg, name string) bool {
	sources, err := filepath.Glob(testrig.Testdata(t, "../"+pkg+"/*_test.go"))
	testrig.Must(t, err)
	for _, source := range sources {
		if strings.Contains(string(testrig.ReadFile(t, source)), "\nfunc "+name+"(t *testing.T) {") {
			return true
		}
	}
	return false
}

// The scripts have no mistake that shellcheck sees.
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob(testrig.Testdata(t, "*.sh"))
	testrig.Must(t, err)
	testrig.Run(t, "shellcheck", scripts...)
}
