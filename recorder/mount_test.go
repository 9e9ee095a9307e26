package recorder

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/imagemap"
	"bootprof/internal/testrig"
	"bootprof/profiles"
)

// A madeFS is a file system image with three files of known content.
type madeFS struct {
	Options
	image   []byte
	a, b, c map[int64]bool // pages of the files' content
}

// makeFS makes an image with the file system's own program. {src} and {img} are replaced in its command.
func makeFS(t *testing.T, command ...string) madeFS {
	t.Helper()
	dir := t.TempDir()
	src, img := filepath.Join(dir, "src"), filepath.Join(dir, "img")
	content := map[string][]byte{"a": random(2, 20*page), "sub/b": random(3, 30*page), "sub/c": random(4, 100*page)}
	for name, b := range content {
		testrig.WriteFile(t, filepath.Join(src, name), b)
	}
	testrig.Must(t, os.WriteFile(filepath.Join(src, "true"), testrig.ReadFile(t, "/bin/true"), 0o755))
	for i, w := range command {
		command[i] = strings.NewReplacer("{src}", src, "{img}", img).Replace(w)
	}
	testrig.Run(t, command[0], command[1:]...)
	fs := madeFS{}
	fs.Options, fs.image = openImage(t, img)
	fs.a, fs.b, fs.c = pagesOf(t, fs.image, content["a"]), pagesOf(t, fs.image, content["sub/b"]), pagesOf(t, fs.image, content["sub/c"])
	return fs
}

func makeErofs(t *testing.T) madeFS { return makeFS(t, "mkfs.erofs", "{img}", "{src}") }

// TestMounted reads one file of a kernel mount: all its pages are touched, and of the others only what shares a
// page with it.
func TestMounted(t *testing.T) {
	testrig.NeedMounts(t)
	for _, c := range []struct {
		fs  string
		cmd []string
	}{
		{"erofs", []string{"mkfs.erofs", "{img}", "{src}"}},
		{"squashfs", []string{"mksquashfs", "{src}", "{img}", "-b", "4096", "-noD", "-noI", "-noX", "-noF", "-quiet", "-no-progress"}},
		{"ext4", []string{"mkfs.ext4", "-q", "-F", "-d", "{src}", "{img}", "8M"}},
	} {
		t.Run(c.fs, func(t *testing.T) {
			fs := makeFS(t, c.cmd...)
			fs.Command = []string{"cat", "{dir}/sub/b"}
			var out bytes.Buffer
			fs.Stdout = &out
			run := mustRecord(t, fs.Options)
			if run.Header.Filesystem != c.fs {
				t.Errorf("file system %q", run.Header.Filesystem)
			}
			if !bytes.Equal(out.Bytes(), random(3, 30*page)) {
				t.Error("the file reads wrong")
			}
			touched := make(map[int64]bool)
			for _, p := range pages(run) {
				touched[p] = true
				if p != 0 && !fs.b[p] && (fs.a[p] || fs.c[p]) { // page 0 has the superblock
					t.Errorf("page %d of a file that was not read is touched", p)
				}
			}
			for p := range fs.b {
				if !touched[p] {
					t.Errorf("page %d of the file that was read is not touched", p)
				}
			}
			if extra := len(touched) - len(fs.b); extra < 1 || extra > 30 {
				t.Errorf("%d pages of metadata touched", extra)
			}
		})
	}
}

// TestProgramInImage starts a program that lies in the image itself, also with a single processor: the one that
// waits for the exec is then not there to serve it.
func TestProgramInImage(t *testing.T) {
	fs := makeErofs(t)
	fs.Command = []string{"{dir}/true"}
	for range 2 {
		if run := mustRecord(t, fs.Options); len(run.Touches) < 3 {
			t.Errorf("touched only %v", pages(run))
		}
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	}
	fs.Command = []string{"{dir}/sub/none"}
	run, err := record(t, t.Context(), fs.Options)
	var ce *CommandError
	if !errors.As(err, &ce) || ce.Code != 127 || run == nil {
		t.Errorf("a program that is not there: %v, %v", run, err)
	}
}

// TestOwnLoop: the command attaches the image by itself. Its device gets readahead 0 and reads exact pages.
func TestOwnLoop(t *testing.T) {
	fs := makeErofs(t)
	fs.Command = sh(`set -e
		d=$(losetup -f -r --show $1)
		trap 'losetup -d $d' EXIT
		until [ "$(cat /sys/block/${d#/dev/}/queue/read_ahead_kb)" = 0 ]; do sleep 0.01; done
		dd if=$d of=/dev/null bs=4096 skip=40 count=2`, "{}")
	wantPages(t, mustRecord(t, fs.Options), 40, 41)
}

// TestLeftMounts: mounts and loop devices that the command leaves go with the recording.
func TestLeftMounts(t *testing.T) {
	testrig.Slow(t)
	for name, script := range map[string]string{
		"mount of its own loop":       `mount -t erofs -o loop,ro $1 $4 && cat $4/a`,
		"its own loop":                `losetup -f -r $1 && head -c 1 $1`,
		"mount of the device":         `mount -t erofs -o ro $2 $4 && cat $4/a`,
		"bind mount of the directory": `mount --bind $3 $4 && cat $4/a`,
		"mount in a namespace that is killed": `exec unshare -m -p -f --kill-child sh -c '
			mount -t erofs -o ro "$2" "$4" && cat "$4/a" >/dev/null && echo ready && sleep 60' sh "$@"`,
	} {
		t.Run(name, func(t *testing.T) {
			fs := makeErofs(t)
			dir := t.TempDir()
			var errOut bytes.Buffer
			fs.Stderr = &errOut
			fs.Command = sh(script, "{}", "{dev}", "{dir}", dir)
			if strings.Contains(script, "ready") {
				fs.UntilRegex = readyLine
				fs.Grace = 100 * time.Millisecond // unshare and process 1 of the namespace ignore SIGTERM
			}
			mustRecord(t, fs.Options)
			assertNothingLeft(t, dir)
			if s := errOut.String(); s != "" && s != "Terminated\n" {
				t.Errorf("the command said %s", s)
			}
		})
	}
}

// TestMain runs the tests in a mount namespace of their own. It is also the program of TestErofsOnFile:
// mount(8) attaches a loop device for every file.
func TestMain(m *testing.M) {
	if len(os.Args) == 5 && os.Args[1] == "mount-erofs" {
		os.Exit(mountErofs(os.Args[2], os.Args[3], os.Args[4]))
	}
	testrig.Private()
	os.Exit(m.Run())
}

// mountErofs mounts the image without a loop device and reads a file of it. Its status is 32 if it cannot mount.
func mountErofs(image, dir, file string) int {
	if err := unix.Mount(image, dir, "erofs", unix.MS_RDONLY, ""); err != nil {
		fmt.Fprintf(os.Stderr, "mounting %s: %v\n", image, err)
		return 32
	}
	_, err := os.ReadFile(filepath.Join(dir, file))
	if uerr := unix.Unmount(dir, 0); err != nil || uerr != nil {
		fmt.Fprintln(os.Stderr, err, uerr)
		return 1
	}
	return 0
}

// TestErofsOnFile mounts the recording image without a loop device.
func TestErofsOnFile(t *testing.T) {
	fs := makeErofs(t)
	var errOut bytes.Buffer
	fs.Stderr = &errOut
	fs.Command = []string{os.Args[0], "mount-erofs", "{}", t.TempDir(), "sub/b"}
	run, err := record(t, t.Context(), fs.Options)
	var ce *CommandError
	if errors.As(err, &ce) && ce.Code == 32 {
		testrig.KernelLacks(t, "mounts of EROFS from a file (Linux 6.12): %s", errOut.String())
	}
	if err != nil {
		t.Fatal(err, errOut.String())
	}
	got := make(map[int64]bool)
	for _, p := range pages(run) {
		got[p] = true
		if fs.a[p] || fs.c[p] {
			t.Errorf("page %d of a file that was not read is touched", p)
		}
	}
	for p := range fs.b {
		if !got[p] {
			t.Errorf("page %d of the file that was read is not touched", p)
		}
	}
}

// TestFileTouchesOfMount gives Record a map and looks for the file that was read.
func TestFileTouchesOfMount(t *testing.T) {
	fs := makeErofs(t)
	at := int64(bytes.Index(fs.image, random(3, 30*page)[:page]))
	fs.Map = imagemap.New([]imagemap.Segment{
		{ImageOff: 0, ImageLen: page, Kind: imagemap.Meta},
		{ImageOff: at, ImageLen: 30 * page, Path: "sub/b", FileLen: 30 * page},
	})
	fs.Command = []string{"dd", "if={dir}/sub/b", "of=/dev/null", "bs=4096", "skip=5", "count=2"}
	run := mustRecord(t, fs.Options)
	var meta int
	file := make(map[int64]bool)
	for _, ft := range run.FileTouches {
		if ft.Kind == profiles.KindMeta {
			meta++
		}
		for off := ft.FileOff; off < ft.FileOff+ft.Len; off += page {
			file[off/page] = true
		}
	}
	if meta != 1 || len(file) != 2 || !file[5] || !file[6] {
		t.Errorf("file touches %+v, want the superblock and pages 5 and 6 of the file", run.FileTouches)
	}
}

var readyLine = regexp.MustCompile("^ready$")
