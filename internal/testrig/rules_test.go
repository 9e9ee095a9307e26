package testrig

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// goFile is a Go file of the module.
type goFile struct {
	path string // below the module's root
	tree *ast.File
	fset *token.FileSet
}

// testCode parses all files of the module that import the package testing: the tests and the helpers of tests.
func testCode(t *testing.T) (files []goFile) {
	t.Helper()
	root := filepath.Dir(Testdata(t, "."))
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || d.Name() == "build" || strings.HasPrefix(d.Name(), ".")) && path != root {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".go" {
			return nil
		}
		fset := token.NewFileSet()
		tree, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(tree.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"testing"` }) {
			rel, err := filepath.Rel(root, path)
			Must(t, err)
			files = append(files, goFile{rel, tree, fset})
		}
		return nil
	})
	Must(t, err)
	if len(files) < 100 {
		t.Fatalf("found only %d files of tests below %s", len(files), root)
	}
	return files
}

// calls lists the selectors that are called below a node, such as "testrig.Long" or ".Skip" of anything else.
func calls(n ast.Node, see func(call *ast.CallExpr, of, name string)) {
	ast.Inspect(n, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if sel, ok := call.Fun.(*ast.SelectorExpr); ok {
				of, _ := sel.X.(*ast.Ident)
				if of == nil {
					of = &ast.Ident{}
				}
				see(call, of.Name, sel.Sel.Name)
			}
		}
		return true
	})
}

// TestNoOtherSkips: a test skips by this package alone, so that $BOOTPROF_NEED_ALL and the tiers hold for
// all of them.
func TestNoOtherSkips(t *testing.T) {
	for _, f := range testCode(t) {
		if filepath.Dir(f.path) == filepath.FromSlash("internal/testrig") {
			continue
		}
		calls(f.tree, func(call *ast.CallExpr, of, name string) {
			if name == "Skip" || name == "Skipf" || name == "SkipNow" {
				line := f.fset.Position(call.Pos()).Line
				t.Errorf("%s:%d: %s.%s: want testrig.Missing, Slow, Long or Elsewhere", f.path, line, of, name)
			}
		})
	}
}

// TestLongTestsAreListed: docs/testing.md lists the tests that call Long, each with its reason, and no others.
func TestLongTestsAreListed(t *testing.T) {
	const doc, heading = "docs/testing.md", "\n## Only in make test-all\n"
	text := string(ReadFile(t, filepath.Join(filepath.Dir(Testdata(t, ".")), doc)))
	_, part, ok := strings.Cut(text, heading)
	if !ok {
		t.Fatalf("%s has no section %q", doc, strings.TrimSpace(heading))
	}
	part, _, _ = strings.Cut(part, "\n## ")
	listed := map[string]bool{} // "package TestName"
	for line := range strings.Lines(part) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) < 6 {
			continue
		}
		for i := range cells {
			cells[i] = strings.Trim(cells[i], " `")
		}
		name, dir, reason := cells[1], strings.TrimPrefix(cells[2], "./"), cells[4]
		if !strings.HasPrefix(name, "Test") && !strings.HasPrefix(name, "Fuzz") {
			continue // the head, or a step of the suite
		}
		listed[dir+" "+name] = true
		if reason == "" {
			t.Errorf("%s: %s of %s has no reason", doc, name, dir)
		}
	}
	for _, f := range testCode(t) {
		for _, d := range f.tree.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Test") && !strings.HasPrefix(fn.Name.Name, "Fuzz") {
				continue
			}
			key := filepath.ToSlash(filepath.Dir(f.path)) + " " + fn.Name.Name
			long := false
			calls(fn, func(_ *ast.CallExpr, of, name string) { long = long || of == "testrig" && name == "Long" })
			if long && !listed[key] {
				t.Errorf("%s does not list %s, which calls testrig.Long", doc, key)
			}
			if long {
				delete(listed, key)
			}
		}
	}
	for key := range listed {
		t.Errorf("%s lists %s, which is no test that calls testrig.Long", doc, key)
	}
}
