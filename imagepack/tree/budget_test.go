package tree

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"bootprof/internal/testrig"
)

// What a small input says may take much memory; each case is refused with less than it takes, and read with more.
func TestBudget(t *testing.T) {
	archive := func(n int, h func(i int) tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for i := range n {
			h := h(i)
			h.Mode, h.Format = 0o644, tar.FormatPAX
			testrig.Must(t, w.WriteHeader(&h))
		}
		testrig.Must(t, w.Close())
		return b.Bytes()
	}
	long := strings.Repeat("n", 200)
	for name, b := range map[string][]byte{
		"files": archive(200, func(i int) tar.Header { return tar.Header{Name: fmt.Sprint(i), Typeflag: tar.TypeReg} }),
		"paths": archive(8, func(i int) tar.Header {
			return tar.Header{Name: strings.Repeat(long+"/", 5*(i+1)), Typeflag: tar.TypeDir}
		}),
		"directories": archive(1, func(i int) tar.Header { return tar.Header{Name: strings.Repeat("d/", 150), Typeflag: tar.TypeDir} }),
		"links": append(archive(1, func(i int) tar.Header { return tar.Header{Name: "a", Typeflag: tar.TypeReg} })[:1024-512],
			archive(300, func(i int) tar.Header {
				return tar.Header{Name: fmt.Sprint(i, long), Linkname: "a", Typeflag: tar.TypeLink}
			})...),
		"pending links": append(archive(400, func(i int) tar.Header {
			return tar.Header{Name: fmt.Sprint(i), Linkname: "a" + fmt.Sprint(i), Typeflag: tar.TypeLink}
		})[:400*512], archive(400, func(i int) tar.Header { return tar.Header{Name: "a" + fmt.Sprint(i), Typeflag: tar.TypeReg} })...),
		"attributes": archive(2, func(i int) tar.Header {
			return tar.Header{Name: fmt.Sprint(i), Typeflag: tar.TypeReg, PAXRecords: map[string]string{"SCHILY.xattr.user.a": strings.Repeat("x", 60_000)}}
		}),
		"targets": archive(20, func(i int) tar.Header {
			return tar.Header{Name: fmt.Sprint(i), Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("x", 4000)}
		}),
	} {
		for _, limit := range []int64{100_000, 2 << 20} {
			_, err := FromTar(context.Background(), bytes.NewReader(b), int64(len(b)), TarOptions{memory: limit})
			var over *BudgetError
			switch {
			case limit > 1<<20 && err != nil:
				t.Errorf("%s: %v", name, err)
			case limit < 1<<20 && !errors.As(err, &over):
				t.Errorf("%s: %v, want a BudgetError", name, err)
			case limit < 1<<20 && (strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "--fs keep")):
				t.Errorf("%s: %q, want one line that says what to do", name, err)
			}
		}
	}
	dir := testrig.MemoryDir(t)
	for i := range 20 {
		testrig.WriteFile(t, fmt.Sprintf("%s/%d", dir, i), "")
	}
	if _, err := FromDir(context.Background(), dir, DirOptions{memory: 10_000}); !errors.As(err, new(*BudgetError)) {
		t.Errorf("a directory: %v, want a BudgetError", err)
	}
}
