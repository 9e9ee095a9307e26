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
	"testing"
	"time"

	"bootprof/imagepack"
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

func write(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o755); err != nil {
		t.Fatal(err)
	}
}

// bigFile is a file of 64 pages of its own.
func bigFile(letter byte) []byte { return bytes.Repeat([]byte{letter}, 64*4096) }

// makeRoot makes a root file system with a Debian kernel, its modules and the guest's init.
func makeRoot(t *testing.T, kernel string) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"dev", "proc", "sys"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(kernel)
	if err != nil {
		t.Fatal(err)
	}
	version := KernelVersion(b)
	write(t, filepath.Join(root, "boot/vmlinuz-"+version), b)
	write(t, filepath.Join(root, "etc/early"), bigFile('e'))
	write(t, filepath.Join(root, "etc/late"), bigFile('l'))
	write(t, filepath.Join(root, "etc/never"), bigFile('n'))
	if err := os.Mkdir(filepath.Join(root, "sbin"), 0o755); err != nil {
		t.Fatal(err)
	}
	goBuild(t, filepath.Join(root, "sbin/init"), "./testdata/guest")
	modules := filepath.Join(root, "lib/modules", version)
	if err := os.MkdirAll(filepath.Dir(modules), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(modules, os.DirFS(filepath.Join(kernel+".modules", version))); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(modules, "modules.dep"), depmod(t, modules))
	return root
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
	if err != nil {
		t.Fatal(err)
	}
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

// An image is an EROFS made by mkfs.erofs, ready to boot.
type image struct {
	file    *os.File
	size    int64
	options vm.Options
}

func makeImage(t *testing.T, root string) image {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if out, err := exec.Command("mkfs.erofs", path, root).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.erofs (scripts/setup.sh installs it): %v: %s", err, out)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	tree, err := imagepack.TreeOf(f, st.Size(), "erofs")
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := FindKernel(tree)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "bootprof")
	goBuild(t, program, "bootprof/cmd/bootprof")
	b, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	initrd, err := Initrd(tree, "erofs", kernel.Version, b)
	if err != nil {
		t.Fatal(err)
	}
	o := vm.Options{
		Kernel: filepath.Join(t.TempDir(), "kernel"), Initrds: []string{filepath.Join(t.TempDir(), "initrd")},
		Append: "console=ttyS0 panic=-1 quiet word", ConsoleLog: filepath.Join(t.TempDir(), "console"), Accel: vm.Accel{Name: vm.TCG},
	}
	write(t, o.Kernel, kernel.Data)
	write(t, o.Initrds[0], initrd)
	return image{f, st.Size(), o}
}

// boot records a boot of the image.
func (i image) boot(t *testing.T, settle, off time.Duration) (*profiles.Run, string, error) {
	t.Helper()
	var said strings.Builder
	b := Boot{
		Machine: i.options, Login: regexp.MustCompile("login: $"), Settle: settle, OffTime: off,
		Tell: func(format string, args ...any) { fmt.Fprintf(&said, format+"\n", args...) },
	}
	m, _ := imagepack.MapOf(i.file, i.size, "erofs") // nil for what is none
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	run, err := recorder.Record(ctx, recorder.Options{Image: i.file, Size: i.size, Filesystem: "erofs", Map: m, Run: b.Run, TempDir: t.TempDir()})
	if t.Failed() || err != nil {
		log, _ := os.ReadFile(i.options.ConsoleLog)
		t.Logf("console:\n%s", log)
	}
	return run, said.String(), err
}

func needBoot(t *testing.T) (kernel string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("recording needs root")
	}
	return vmtest.Kernel(t)
}

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
	root := makeRoot(t, needBoot(t))
	run, said, err := makeImage(t, root).boot(t, 0, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
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
		st, err := os.Stat(filepath.Join(root, f.Path))
		if err != nil {
			t.Fatal(err)
		}
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
	root := makeRoot(t, needBoot(t))
	write(t, filepath.Join(root, "etc/deaf"), nil)
	i := makeImage(t, root)
	run, said, err := i.boot(t, 0, 500*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if run.Header.End != EndUntil || !strings.Contains(said, "has not powered off within 500ms") {
		t.Errorf("ended by %s; it said %q", run.Header.End, said)
	}
	log, err := os.ReadFile(i.options.ConsoleLog)
	if err != nil || !strings.Contains(string(log), `args ["word"]`) || strings.Contains(string(log), "cannot be written") {
		t.Errorf("the guest said %q, %v", log, err)
	}
}

func TestBootThatFails(t *testing.T) {
	root := makeRoot(t, needBoot(t))
	write(t, filepath.Join(root, "etc/dies"), nil)
	i := makeImage(t, root)
	noImage := i
	var err error
	if noImage.file, err = os.Create(filepath.Join(t.TempDir(), "zeros")); err != nil {
		t.Fatal(err)
	}
	defer noImage.file.Close()
	if err := noImage.file.Truncate(i.size); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		image image
		want  string
	}{
		{"init ends", i, "the machine has ended"},
		{"no image on the disk", noImage, "mounting the image as erofs: invalid argument"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var l *LoginError
			if _, _, err := tt.image.boot(t, 0, time.Minute); !errors.As(err, &l) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want a LoginError with %q", err, tt.want)
			}
		})
	}
}
