package squashfs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"bootprof/imagepack/tree"
)

// A few hundred bytes of an image may hold many files, and a file of many blocks that are holes.
func TestTreeBudget(t *testing.T) {
	many, sparse := t.TempDir(), t.TempDir()
	for i := range 300 {
		if err := os.WriteFile(fmt.Sprintf("%s/%d", many, i), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(sparse+"/a", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(sparse+"/a", 100<<20); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{many, sparse} {
		img := t.TempDir() + "/img"
		if out, err := exec.Command("mksquashfs", dir, img, "-quiet", "-no-progress", "-b", "4096", "-processors", "1").CombinedOutput(); err != nil {
			t.Fatalf("mksquashfs: %v: %s", err, out)
		}
		data, err := os.ReadFile(img)
		if err != nil {
			t.Fatal(err)
		}
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
