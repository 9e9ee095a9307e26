package imagepack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/bpk"
	"bootprof/imagepack/sign"
	"bootprof/internal/testrig"
)

// watch returns a function that tells which names came to be in dir ("+x") and ceased to be ("-x") since it was called last.
// Hidden names, of files that are not finished, are left out.
func watch(t *testing.T, dir string) func() []string {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	testrig.Must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MOVED_TO|unix.IN_CREATE|unix.IN_DELETE|unix.IN_MOVED_FROM); err != nil {
		t.Fatal(err)
	}
	return func() (out []string) {
		buf := make([]byte, 1<<16)
		n, err := unix.Read(fd, buf)
		if err != nil {
			t.Fatalf("reading what happened in %s: %v", dir, err)
		}
		for b := buf[:n]; len(b) > 0; { // struct inotify_event: wd, mask, cookie, len, name
			length := binary.NativeEndian.Uint32(b[12:])
			name, _, _ := strings.Cut(string(b[16:16+length]), "\x00")
			way := "+"
			if binary.NativeEndian.Uint32(b[4:])&(unix.IN_DELETE|unix.IN_MOVED_FROM) != 0 {
				way = "-"
			}
			if !strings.HasPrefix(name, ".") {
				out = append(out, way+name)
			}
			b = b[16+length:]
		}
		return out
	}
}

// In which order names appear: no image without its manifest, no signature beside a pack that it does not fit. A signature
// that cannot be made leaves all as it was.
func TestOrderOfNames(t *testing.T) {
	ctx := context.Background()
	src := testrig.MemoryDir(t)
	testrig.WriteFile(t, filepath.Join(src, "file"), []byte("content"))
	in, err := OpenInput(ctx, src, "")
	testrig.Must(t, err)
	defer in.Close()
	image := newMemImage(mixedPages(1, 30))
	whole, _ := mustPack(t, image, WriteOptions{})
	p := openPack(t, whole)
	good := func(r io.Reader, name string, digest [32]byte) ([]byte, error) {
		b, err := io.ReadAll(r)
		if len(b) < bpk.HeaderSize || bpk.Digest(b[:bpk.HeaderSize]) != digest {
			t.Errorf("%d bytes to sign of another pack than that of the digest", len(b))
		}
		return fmt.Append(nil, name), err
	}
	errSign := errors.New("no signature")
	bad := func(io.Reader, string, [32]byte) ([]byte, error) { return nil, errSign }
	for _, c := range []struct {
		name  string
		write func(path string, s Signer) error
		plain string // without a signature
	}{
		{"bpk", func(path string, s Signer) error {
			_, err := Write(ctx, path, image, WriteOptions{Sign: s})
			return err
		}, "+x"},
		{"split", func(path string, s Signer) error {
			_, err := SplitSigned(ctx, p, path, s, nil)
			return err
		}, "+x"},
		{"squashfs", func(path string, s Signer) error {
			_, err := WriteSquashfs(ctx, in, path, SquashfsOptions{Sign: s})
			return err
		}, "+x.bpm +x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := testrig.MemoryDir(t)
			testrig.Must(t, os.Mkdir(dir+"/chunks", 0o755))
			happened := watch(t, dir)
			signature := "x" + sign.Suffix
			if c.name == "squashfs" {
				signature = "x" + bpk.ManifestSuffix + sign.Suffix
			}
			for _, step := range []struct {
				signer Signer
				want   string
			}{{nil, c.plain}, {good, c.plain + " +" + signature}, {good, "-" + signature + " " + c.plain + " +" + signature}, {nil, c.plain}} {
				testrig.Must(t, c.write(dir+"/x", step.signer))
				if got := happened(); !slices.Equal(got, strings.Fields(step.want)) {
					t.Errorf("names changed as %q, want %q", got, step.want)
				}
			}
			if got := string(testrig.ReadFile(t, dir+"/"+signature)) + sign.Suffix; got != signature {
				t.Errorf("the name that was signed makes %q, want %q", got, signature)
			}
			before := dirNames(t, dir)
			testrig.WriteFile(t, dir+"/x", []byte("old"))
			if err := c.write(dir+"/x", bad); !errors.Is(err, errSign) || string(testrig.ReadFile(t, dir+"/x")) != "old" || !slices.Equal(before, dirNames(t, dir)) {
				t.Errorf("without a signature: %v, and %q", err, dirNames(t, dir))
			}
		})
	}
}
