package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"bootprof/imagepack"
	"bootprof/imagepack/bpk"
	"bootprof/internal/cachefile"
	"bootprof/internal/testrig"
	"bootprof/profiles"
)

// Whatever the form, a pack that is killed at any moment leaves the old output or the new one, both whole: a squashfs with its
// manifest, a pack with its signature or none. (Between two renames is no time for a kill: TestOrderOfNames of imagepack.)
func TestKilledForms(t *testing.T) {
	testrig.Slow(t)
	testrig.NeedProgram(t, "minisign")
	t.Parallel()
	dir := testrig.MemoryDir(t)
	for v := range 2 {
		r := rand.New(rand.NewPCG(1, 1))
		for i := range 30 {
			b := make([]byte, 1+r.IntN(100_000))
			for k := range b {
				b[k] = byte(r.IntN(30))
			}
			if v == 1 && i%3 == 0 {
				b[0] = 99
			}
			testrig.WriteFile(t, filepath.Join(dir, fmt.Sprintf("v%d/d%d/f%d", v, i%4, i)), b)
		}
	}
	bootprof := func(args ...string) *exec.Cmd {
		c := exec.Command("bootprof", args...)
		c.Dir = dir
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		return c
	}
	must := func(args ...string) string {
		t.Helper()
		var stderr bytes.Buffer
		c := bootprof(args...)
		c.Stderr = &stderr
		out, err := c.Output()
		if err != nil {
			t.Fatalf("bootprof %q: %v: %s", args, err, stderr.Bytes())
		}
		return string(out)
	}
	testrig.Run(t, "minisign", "-G", "-W", "-p", dir+"/key.pub", "-s", dir+"/key.sec")
	for _, form := range []string{"split", "squashfs", "signed bpk", "signed squashfs"} {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			out := form + "/out"
			testrig.Must(t, os.Mkdir(filepath.Join(dir, form), 0o755))
			kind, signed := strings.CutPrefix(form, "signed ")
			pack := func(v int) []string {
				args := []string{"pack", fmt.Sprintf("v%d", v), "-o", out, "--format", kind}
				if signed {
					args = append(args, "--sign", "key.sec")
				}
				return args
			}
			pair := func() string { return fileSum(dir+"/"+out) + fileSum(dir+"/"+out+".bpm") }
			signature := filepath.Join(dir, out+".minisig")
			if kind == "squashfs" {
				signature = filepath.Join(dir, out+".bpm.minisig")
			}
			began := time.Now()
			digests, pairs := map[string]bool{must(pack(1)...): true}, map[string]bool{pair(): true}
			k := killer{within: time.Since(began)}
			digests[must(pack(0)...)], pairs[pair()] = true, true
			unsigned := 0
			rounds := 8
			if signed {
				rounds = 4
			}
			for i := 0; k.killed < rounds; i++ {
				k.run(t, bootprof(pack(i%2)...))
				if !pairs[pair()] {
					t.Fatal("a killed pack left something else")
				}
				verify := []string{"verify", out}
				if _, err := os.Stat(signature); err == nil {
					verify = append(verify, "--pubkey", "key.pub")
				} else if signed {
					unsigned++
				}
				if got := must(verify...); !digests[got] {
					t.Fatalf("a killed pack left something else: %s", got)
				}
			}
			t.Logf("%d killed, %d of them left no signature", k.killed, unsigned)
			must(pack(0)...)
			noTemporary(t, filepath.Join(dir, form))
		})
	}
	t.Run("sparse", func(t *testing.T) {
		t.Parallel()
		testKilledSparse(t, dir, bootprof)
	})
}

// testKilledSparse kills the writing of a cache where there is none, and where there is one of the same pack that also knows
// other pages. Whatever is left, a page that a record vouches for is that of the image.
func testKilledSparse(t *testing.T, dir string, bootprof func(args ...string) *exec.Cmd) {
	ctx := t.Context()
	img, err := imagepack.Open(ctx, dir+"/v0", "")
	testrig.Must(t, err)
	defer img.Close()
	var boot []profiles.Range
	for page := int64(0); page < img.Size()/bpk.PageSize; page += 3 {
		boot = append(boot, profiles.Range{ImageOff: page * bpk.PageSize, Len: 1})
	}
	st, err := imagepack.Write(ctx, dir+"/sparse.bpk", img, imagepack.WriteOptions{Boot: boot, BodyLevel: zstd.SpeedFastest})
	testrig.Must(t, err)
	image := make([]byte, img.Size())
	read := func(b []byte, off int64) error {
		_, err := img.ReadAt(b, off)
		return err
	}
	testrig.Must(t, read(image, 0))
	out := dir + "/cache"
	names := func() (string, string) { return cachefile.Names(out, st.Digest) }
	held := func() (pages int64) { // that a client would take, which hashes them first
		imageName, journalName := names()
		journal, err := os.ReadFile(journalName)
		if errors.Is(err, fs.ErrNotExist) {
			return 0
		}
		got, err2 := os.ReadFile(imageName)
		if err != nil || err2 != nil || len(got) != len(image) || len(journal)%cachefile.RecordSize != 0 {
			t.Fatalf("a journal of %d bytes, an image of %d: %v, %v", len(journal), len(got), err, err2)
		}
		for ; len(journal) > 0; journal = journal[cachefile.RecordSize:] {
			r, ok := cachefile.Decode(journal, int64(len(image)/bpk.PageSize))
			if !ok {
				t.Fatal("a damaged record")
			}
			off, end := r.Page*bpk.PageSize, (r.Page+r.Pages)*bpk.PageSize
			if sha256.Sum256(image[off:end]) != r.SHA256 {
				t.Fatalf("pages [%d +%d): the record is of other bytes", r.Page, r.Pages)
			}
			if bytes.Equal(got[off:end], image[off:end]) {
				pages += r.Pages
			}
		}
		return pages
	}
	pack := []string{"pack", "sparse.bpk", "-o", "cache", "--format", "sparse"}
	began := time.Now()
	if b, err := bootprof(pack...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	k, whole := killer{within: time.Since(began)}, held()
	if whole != int64(len(boot)) {
		t.Fatalf("%d pages of %d in a cache that is whole", whole, len(boot))
	}
	none := 0
	for i := 0; k.killed < 10; i++ {
		testrig.Must(t, os.RemoveAll(out))
		if i%2 == 1 {
			all := []bpk.Range{{Pages: int64(len(image) / bpk.PageSize)}}
			testrig.Must(t, cachefile.Write(ctx, out, st.Digest, int64(len(image)), all, read))
		}
		k.run(t, bootprof(pack...))
		switch n := held(); {
		case n == 0 && i%2 == 0:
			none++
		case n < whole && i%2 == 0:
			t.Errorf("%d pages of %d in a journal that is there", n, whole)
		}
	}
	t.Logf("%d killed, %d left no journal", k.killed, none)
}

// A killer runs commands and kills each at a random moment of the time that the last one took which was not killed.
type killer struct {
	within time.Duration
	killed int // commands that came to no end of their own
}

func (k *killer) run(t *testing.T, c *exec.Cmd) {
	t.Helper()
	began := time.Now()
	testrig.Must(t, c.Start())
	timer := time.AfterFunc(time.Duration(rand.Int64N(int64(k.within))), func() { c.Process.Kill() })
	defer timer.Stop()
	if c.Wait() != nil {
		k.killed++
	} else {
		k.within = time.Since(began)
	}
}

// fileSum is the digest of a file, "" of none.
func fileSum(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

// noTemporary reports hidden names.
func noTemporary(t *testing.T, dir string) {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if strings.HasPrefix(n.Name(), ".") {
			t.Errorf("left behind: %s", n.Name())
		}
	}
}
