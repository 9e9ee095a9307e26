package squashfs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"

	"bootprof/imagepack/tree"
	"bootprof/internal/testrig"
)

// A few hundred bytes of an image may hold many files, and a file of many blocks that are holes.
func TestTreeBudget(t *testing.T) {
	many, sparse := testrig.MemoryDir(t), testrig.MemoryDir(t)
	for i := range 300 {
		testrig.WriteFile(t, fmt.Sprintf("%s/%d", many, i), "")
	}
	testrig.WriteFile(t, sparse+"/a", "")
	testrig.Must(t, os.Truncate(sparse+"/a", 100<<20))
	for _, dir := range []string{many, sparse} {
		img := testrig.MemoryDir(t) + "/img"
		testrig.Run(t, "mksquashfs", dir, img, "-quiet", "-no-progress", "-b", "4096", "-processors", "1")
		data := testrig.ReadFile(t, img)
		r, err := Open(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		b := newBuilder(r)
		b.memory = tree.NewBudget(150_000)
		if _, err := b.build(); !errors.As(err, new(*tree.BudgetError)) {
			t.Errorf("an image of %d bytes: %v, want a BudgetError", len(data), err)
		}
		if _, err := r.Tree(); err != nil {
			t.Error(err)
		}
	}
}
