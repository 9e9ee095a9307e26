package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"bootprof/imagepack/tree"
)

func TestTreeBudget(t *testing.T) {
	dir, img := t.TempDir(), t.TempDir()+"/img"
	for i := range 300 {
		if err := os.WriteFile(fmt.Sprintf("%s/%d", dir, i), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-d", dir, img, "4m").CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	data, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	b := newBuilder(r, false)
	b.memory = tree.NewBudget(150_000)
	if _, err := b.build(); !errors.As(err, new(*tree.BudgetError)) {
		t.Errorf("%v, want a BudgetError", err)
	}
	if _, err := r.Tree(); err != nil {
		t.Error(err)
	}
}
