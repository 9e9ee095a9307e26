package lab

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bootprof/imagepack"
	"bootprof/internal/testrig"
	"bootprof/profiles"
	"bootprof/recorder"
	"bootprof/recorder/vm"
	"bootprof/recorder/vm/vmtest"
)

func goBuild(t *testing.T, out, pkg string) {
	t.Helper()
	c := exec.Command("go", "build", "-o", out, pkg)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
}

// bigFile is a file of 64 pages of its own.
func bigFile(letter byte) []byte { return bytes.Repeat([]byte{letter}, 64*4096) }

// makeRoot makes a root file system with a Debian kernel, its modules and the guest's init.
func makeRoot(t *testing.T, root, kernel string) {
	t.Helper()
	for _, dir := range []string{"dev", "proc", "sys", "sbin"} {
		testrig.Must(t, os.Mkdir(filepath.Join(root, dir), 0o755))
	}
	b := testrig.ReadFile(t, kernel)
	version := KernelVersion(b)
	testrig.WriteFile(t, filepath.Join(root, "boot/vmlinuz-"+version), b)
	testrig.WriteFile(t, filepath.Join(root, "etc/early"), bigFile('e'))
	testrig.WriteFile(t, filepath.Join(root, "etc/late"), bigFile('l'))
	testrig.WriteFile(t, filepath.Join(root, "etc/never"), bigFile('n'))
	goBuild(t, filepath.Join(root, "sbin/init"), "./testdata/guest")
	modules := filepath.Join(root, "lib/modules", version)
	testrig.Must(t, os.MkdirAll(filepath.Dir(modules), 0o755))
	testrig.Must(t, os.CopyFS(modules, os.DirFS(filepath.Join(kernel+".modules", version))))
	testrig.WriteFile(t, filepath.Join(modules, "modules.dep"), depmod(t, modules))
}

// depmod does what depmod(8) does: it reads what modules say about each other.
func depmod(t *testing.T, dir string) []byte {
	t.Helper()
	files, uses := map[string]string{}, map[string][]string{}
	name := func(file string) string {
		return strings.ReplaceAll(strings.TrimSuffix(filepath.Base(file), ".ko"), "-", "_")
	}
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".ko" {
			return err
		}
		f, err := elf.Open(filepath.Join(dir, path))
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Section(".modinfo").Data()
		for _, line := range strings.Split(string(info), "\x00") {
			if names, ok := strings.CutPrefix(line, "depends="); ok && names != "" {
				uses[name(path)] = strings.Split(names, ",")
			}
		}
		files[name(path)] = path
		return err
	})
	testrig.Must(t, err)
	var out bytes.Buffer
	for module, path := range files {
		fmt.Fprintf(&out, "%s:", path)
		// All that it needs, each behind all that need it: what is to be loaded first is at the end.
		queue := slices.Clone(uses[module])
		for i := 0; i < len(queue); i++ {
			queue = append(queue, uses[name(queue[i])]...)
		}
		for i, used := range queue {
			if file := files[name(used)]; file != "" && !slices.Contains(queue[i+1:], used) { // else of a directory left out here
				fmt.Fprintf(&out, " %s", file)
			}
		}
		fmt.Fprintln(&out)
	}
	return out.Bytes()
}

// An image is an EROFS made by mkfs.erofs, ready to boot, of the tree at root.
type image struct {
	root    string
	file    *os.File
	size    int64
	options vm.Options
}

// shared is the image that all tests boot; TestMain removes it.
var shared struct {
	once  sync.Once
	dir   string
	image *image
}

// TestMain runs the tests in a mount namespace of their own: no other process comes to hold the recording image.
func TestMain(m *testing.M) {
	testrig.Private()
	code := m.Run()
	os.RemoveAll(shared.dir)
	os.Exit(code)
}

// bootable returns the shared image, with a console log of the test's own. The test runs beside others: an
// emulated machine waits much.
func bootable(t *testing.T) image {
	t.Helper()
	kernel := vmtest.Kernel(t)
	testrig.NeedMounts(t)
	t.Parallel()
	shared.once.Do(func() {
		dir, err := os.MkdirTemp("", "bootprof-lab-test-")
		testrig.Must(t, err)
		shared.dir = dir
		shared.image = makeImage(t, dir, kernel)
	})
	if shared.image == nil {
		t.Fatal("making the image failed in another test")
	}
	i := *shared.image
	i.options.ConsoleLog = filepath.Join(t.TempDir(), "console")
	return i
}

func makeImage(t *testing.T, dir, kernelFile string) *image {
	t.Helper()
	root, path := filepath.Join(dir, "root"), filepath.Join(dir, "image")
	testrig.Must(t, os.Mkdir(root, 0o755))
	makeRoot(t, root, kernelFile)
	testrig.Run(t, "mkfs.erofs", path, root)
	f, err := os.Open(path)
	testrig.Must(t, err)
	st, err := f.Stat()
	testrig.Must(t, err)
	tree, err := imagepack.TreeOf(f, st.Size(), "erofs")
	testrig.Must(t, err)
	kernel, err := FindKernel(tree)
	testrig.Must(t, err)
	program := filepath.Join(dir, "bootprof")
	goBuild(t, program, "bootprof/cmd/bootprof")
	initrd, err := Initrd(tree, "erofs", kernel.Version, testrig.ReadFile(t, program))
	testrig.Must(t, err)
	o := vm.Options{
		Kernel: filepath.Join(dir, "kernel"), Initrds: []string{filepath.Join(dir, "initrd")},
		Append: "console=ttyS0 panic=-1 quiet word", Accel: vm.Accel{Name: vm.TCG}, CPUs: 1,
	}
	testrig.WriteFile(t, o.Kernel, kernel.Data)
	testrig.WriteFile(t, o.Initrds[0], initrd)
	return &image{root, f, st.Size(), o}
}

// boot records a boot of the image. The guest hears the power button by its second disk.
func (i image) boot(t *testing.T, settle, off time.Duration) (*profiles.Run, string, error) {
	t.Helper()
	button := filepath.Join(t.TempDir(), "button")
	testrig.WriteFile(t, button, make([]byte, 64<<10))
	i.options.Disks = []vm.Disk{{Path: button, ReadOnly: true}}
	var said strings.Builder
	b := Boot{
		Machine: i.options, Login: regexp.MustCompile("login: $"), Settle: settle, OffTime: off,
		Tell: func(format string, args ...any) { fmt.Fprintf(&said, format+"\n", args...) },
	}
	press := func(ctx context.Context, s recorder.Session) (string, error) {
		mark := s.Mark
		s.Mark = func(name string) {
			if mark(name); name == MarkShutdown {
				testrig.WriteFile(t, button, append([]byte{1}, make([]byte, 64<<10-1)...))
			}
		}
		return b.Run(ctx, s)
	}
	m, _ := imagepack.MapOf(i.file, i.size, "erofs") // nil for what is none
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	run, err := recorder.Record(ctx, recorder.Options{
		Image: i.file, Size: i.size, Filesystem: "erofs", Map: m, Run: press, TempDir: t.TempDir(),
	})
	if t.Failed() || err != nil {
		log, _ := os.ReadFile(i.options.ConsoleLog)
		t.Logf("console:\n%s", log)
	}
	return run, said.String(), err
}

// bootLimit is reached only by a machine that hangs.
const bootLimit = 5 * time.Minute

// touched returns which pages of a file's content were touched, and at which mark's time or later the first was.
func touched(run *profiles.Run, path string) (pages int64, after string) {
	for _, f := range run.FileTouches {
		if f.Path != path || f.Kind != profiles.KindData {
			continue
		}
		if pages == 0 {
			for _, m := range run.Marks {
				if m.At <= f.At {
					after = m.Name
				}
			}
		}
		pages += (f.Len + 4095) / 4096
	}
	return pages, after
}

func TestBoot(t *testing.T) {
	i := bootable(t)
	run, said, err := i.boot(t, 0, bootLimit)
	testrig.Must(t, err)
	var marks []string
	for _, m := range run.Marks {
		marks = append(marks, m.Name)
	}
	if got := strings.Join(marks, " "); got != "start login shutdown end" || run.Header.End != EndShutdown {
		t.Errorf("marks %s, ended by %s", got, run.Header.End)
	}
	// One page of 64 each: neither the guest nor the host read ahead.
	for path, want := range map[string]struct {
		pages int64
		after string
	}{"etc/early": {1, "start"}, "etc/late": {1, "shutdown"}, "etc/never": {0, ""}} {
		if pages, after := touched(run, path); pages != want.pages || after != want.after {
			t.Errorf("%s: %d pages after the mark %q, want %d after %q", path, pages, after, want.pages, want.after)
		}
	}
	for _, f := range run.FileTouches {
		if f.Kind != profiles.KindData || !strings.HasPrefix(f.Path, "lib/modules") && !strings.HasPrefix(f.Path, "boot/") {
			continue
		}
		st, err := os.Stat(filepath.Join(i.root, f.Path))
		testrig.Must(t, err)
		// A file's last bytes may lie beside inodes, and are read with them. The kernel's data begins in the image's second page, and
		// the kernel looks for labels of disks up to sector 31.
		if f.FileOff < st.Size()-st.Size()%4096 && (!strings.HasPrefix(f.Path, "boot/") || f.FileOff >= 4*4096) {
			t.Errorf("%s of %d bytes was read from the disk at %d +%d", f.Path, st.Size(), f.FileOff, f.Len)
		}
	}
	if !strings.Contains(said, "login after") || !strings.Contains(said, "off (guest-shutdown)") {
		t.Errorf("it said %q", said)
	}
}

func TestBootThatStaysOn(t *testing.T) {
	i := bootable(t)
	i.options.Append += " deaf"
	run, said, err := i.boot(t, 0, 500*time.Millisecond)
	testrig.Must(t, err)
	if run.Header.End != EndUntil || !strings.Contains(said, "has not powered off within 500ms") {
		t.Errorf("ended by %s; it said %q", run.Header.End, said)
	}
	log := string(testrig.ReadFile(t, i.options.ConsoleLog))
	if !strings.Contains(log, `args ["word" "deaf"]`) || strings.Contains(log, "cannot be written") {
		t.Errorf("the guest said %q", log)
	}
}

func TestBootThatFails(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, i *image)
		want   string
	}{
		{"init ends", func(_ *testing.T, i *image) { i.options.Append += " dies" }, "the machine has ended"},
		{"no image on the disk", func(t *testing.T, i *image) {
			zeros := filepath.Join(t.TempDir(), "zeros")
			testrig.WriteFile(t, zeros, "")
			testrig.Must(t, os.Truncate(zeros, i.size))
			i.file, i.size = testrig.OpenFile(t, zeros)
		}, "mounting the image as erofs: invalid argument"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := bootable(t)
			tt.change(t, &i)
			var l *LoginError
			if _, _, err := i.boot(t, 0, bootLimit); !errors.As(err, &l) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want a LoginError with %q", err, tt.want)
			}
		})
	}
}
