package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"bootprof/imagepack/tree"
	"bootprof/internal/testrig"
)

func TestTreeBudget(t *testing.T) {
	root := &tree.Inode{Mode: tree.ModeDir | 0o755}
	for i := range 300 {
		root.Entries = append(root.Entries, tree.Entry{Name: fmt.Sprintf("%03d", i), Inode: &tree.Inode{Mode: tree.ModeRegular | 0o644}})
	}
	img, err := Plan(root, Options{})
	testrig.Must(t, err)
	defer img.Close()
	data := make([]byte, img.Size())
	if _, err := img.ReadAt(data, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	w := newWalker(bytes.NewReader(data), int64(len(data)))
	w.tree, w.memory = true, tree.NewBudget(150_000)
	if _, err := w.readTree(); !errors.As(err, new(*tree.BudgetError)) {
		t.Errorf("%v, want a BudgetError", err)
	}
	if _, err := ReadTree(bytes.NewReader(data), int64(len(data))); err != nil {
		t.Error(err)
	}
}
