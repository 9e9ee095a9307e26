package fidelity

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bootprof/imagepack"
	"bootprof/internal/testrig"
)

// What EROFS cannot hold is refused in one line that names the file, before anything is written.
func TestRefusals(t *testing.T) {
	testrig.NeedRoot(t)
	for _, c := range []struct {
		name  string
		make  func(s *source)
		words []string
	}{
		// The length of a value has 16 bits in EROFS; Linux allows one byte more.
		{"attribute of 65536 bytes", func(s *source) {
			s.file("a file", 10)
			s.attr("a file", "user.large", s.random(65536))
		}, []string{`"/a file"`, `"user.large"`, "65536"}},
		// EROFS itself holds 256 KiB of attributes in an inode; our writer keeps an inode within a block.
		{"1000 attributes", func(s *source) {
			s.file("many", 10)
			for i := range 1000 {
				s.attr("many", fmt.Sprintf("user.attr%04d", i), fmt.Appendf(nil, "v%04d", i))
			}
		}, []string{`"/many"`, "1000 extended attributes"}},
		{"2100 directories deep", func(s *source) {
			fd, err := unix.Open(s.dir, unix.O_PATH|unix.O_CLOEXEC, 0)
			testrig.Must(t, err)
			for range 2100 {
				testrig.Must(t, unix.Mkdirat(fd, "d", 0o755))
				next, err := unix.Openat(fd, "d", unix.O_PATH|unix.O_CLOEXEC, 0)
				testrig.Must(t, err)
				testrig.Must(t, unix.Close(fd))
				fd = next
			}
			testrig.Must(t, unix.Close(fd))
		}, []string{"more than 2048 directories deep"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if strings.HasPrefix(c.name, "2100") {
				testrig.Slow(t)
			}
			base := scratch(t)
			testrig.Must(t, os.Mkdir(base+"/src", 0o755))
			c.make(newSource(t, base+"/src"))
			out := base + "/x.bpk"
			refused(t, 5, out, exec.Command(command(), "pack", base+"/src", "-o", out), c.words...)
			if strings.HasPrefix(c.name, "2100") {
				return // no tool archives that
			}
			archive := base + "/x.tar"
			testrig.Run(t, "tar", "--format=posix", "--xattrs", "-C", base+"/src", "-cf", archive, ".")
			refused(t, 5, out, exec.Command(command(), "pack", archive, "-o", out), c.words...)
		})
	}
}

// Bad inputs as a user meets them. (The commands' own tests have missing, empty and foreign inputs; those of imagepack
// cancelled and failing reads of the image.)
func TestBadInputs(t *testing.T) {
	testrig.NeedRoot(t)
	base := scratch(t)
	src := base + "/src"
	testrig.Must(t, os.Mkdir(src, 0o755))
	testrig.Must(t, os.Chmod(filepath.Dir(base), 0o755)) // for nobody
	s := newSource(t, src)
	for i := range 20 {
		s.file(fmt.Sprintf("file %d", i), 3000)
	}
	testrig.Must(t, os.Mkdir(base+"/out", 0o777))
	testrig.Must(t, os.Chmod(base+"/out", 0o777))
	out := base + "/out/x.bpk"
	nobody := nobodyRuns

	t.Run("as nobody", func(t *testing.T) {
		testrig.Run(t, nobody().Path, nobody("pack", src, "-o", out).Args[1:]...)
		testrig.Must(t, os.Remove(out))
		testrig.Must(t, os.Chmod(src+"/file 7", 0o600))
		refused(t, 5, out, nobody("pack", src, "-o", out), `src/file 7"`, "permission denied")
		testrig.Must(t, os.Chmod(src+"/file 7", 0o644))
		s.mkdir("closed", 0o700)
		refused(t, 5, out, nobody("pack", src, "-o", out), "src/closed", "permission denied")
		testrig.Must(t, os.Remove(src+"/closed"))
		testrig.Must(t, os.WriteFile(base+"/closed.tar", nil, 0o600))
		refused(t, 5, out, nobody("pack", base+"/closed.tar", "-o", out), "closed.tar", "permission denied")
	})
	t.Run("FIFO", func(t *testing.T) {
		testrig.Run(t, "mkfifo", base+"/fifo")
		refused(t, 5, out, exec.Command(command(), "pack", base+"/fifo", "-o", out), "fifo")
	})
	t.Run("cut tar", func(t *testing.T) {
		whole := base + "/whole.tar"
		testrig.Run(t, "tar", "-C", src, "-cf", whole, ".")
		b, err := os.ReadFile(whole)
		testrig.Must(t, err)
		cut := base + "/cut.tar"
		for _, n := range []int{512, 700, 1024, 512 + 512 + 3072, 20000, 512 + 20*3584, 512 + 20*3584 - 1} {
			testrig.Must(t, os.WriteFile(cut, b[:n], 0o644))
			refused(t, 5, out, exec.Command(command(), "pack", cut, "-o", out), "cut.tar", "the archive")
		}
	})
	for name, c := range map[string]struct {
		change func(file string) error
		words  []string
	}{
		"vanishes": {os.Remove, []string{"src/gone", "no such file"}},
		"shrinks":  {func(f string) error { return os.Truncate(f, 99) }, []string{"src/gone", "changed"}},
		"grows":    {func(f string) error { return os.Truncate(f, 1<<20) }, []string{"src/gone", "changed"}},
	} {
		t.Run("file "+name, func(t *testing.T) {
			s.file("gone", 100_000)
			img, err := imagepack.Open(context.Background(), src, "")
			testrig.Must(t, err)
			defer img.Close()
			testrig.Must(t, c.change(src+"/gone"))
			_, err = imagepack.Write(context.Background(), out, img, imagepack.WriteOptions{})
			for _, w := range c.words {
				if err == nil || !strings.Contains(err.Error(), w) || strings.Contains(err.Error(), "\n") {
					t.Errorf("error %v, want one line with %q", err, w)
				}
			}
			t.Log(err)
			left, err := os.ReadDir(filepath.Dir(out))
			testrig.Must(t, err)
			if len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
			_ = os.Remove(src + "/gone")
		})
	}
}

// The output may not lie in the directory that is packed: the next pack would hold this one.
func TestOutputInsideInput(t *testing.T) {
	testrig.NeedRoot(t)
	src := scratch(t)
	testrig.Must(t, os.WriteFile(src+"/file", []byte("content"), 0o644))
	out, err := exec.Command(command(), "pack", src, "-o", src+"/x.bpk").CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), "is packed") {
		t.Errorf("%v: %s", err, out)
	}
	if names, err := os.ReadDir(src); err != nil || len(names) != 1 {
		t.Errorf("the directory holds %v, %v", names, err)
	}
}
