package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"bootprof/imagepack/tree"
	"bootprof/internal/testrig"
)

func TestTreeBudget(t *testing.T) {
	dir, img := testrig.MemoryDir(t), testrig.MemoryDir(t)+"/img"
	for i := range 300 {
		testrig.WriteFile(t, fmt.Sprintf("%s/%d", dir, i), "")
	}
	testrig.Run(t, "mkfs.ext4", "-q", "-d", dir, img, "4m")
	data := testrig.ReadFile(t, img)
	r, err := Open(bytes.NewReader(data), int64(len(data)))
	testrig.Must(t, err)
	b := newBuilder(r, false)
	b.memory = tree.NewBudget(150_000)
	if _, err := b.build(); !errors.As(err, new(*tree.BudgetError)) {
		t.Errorf("%v, want a BudgetError", err)
	}
	if _, err := r.Tree(); err != nil {
		t.Error(err)
	}
}
