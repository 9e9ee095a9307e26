package fidelity

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"bootprof/imagepack"
	"bootprof/imagepack/bpk"
	"bootprof/internal/testrig"
	"bootprof/profiles"
)

// command returns the path of bootprof, which the first test that asks for it builds.
var command = sync.OnceValue(func() string {
	path := commandDir + "/bootprof"
	if out, err := exec.Command("go", "build", "-o", path, "bootprof/cmd/bootprof").CombinedOutput(); err != nil {
		panic(fmt.Sprintf("building bootprof: %v\n%s", err, out))
	}
	return path
})

var commandDir string // set by TestMain

func TestMain(m *testing.M) {
	testrig.Private()
	testrig.EmptyRun()
	var err error
	if commandDir, err = os.MkdirTemp("", "fidelity-"); err == nil {
		err = os.Chmod(commandDir, 0o755) // for nobody
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(commandDir)
	os.Exit(code)
}

// scratch returns a directory on a tmpfs of its own, until the end of the test.
func scratch(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	testrig.Must(t, unix.Mount("none", dir, "tmpfs", 0, "size=2g,nr_inodes=1m,mode=755"))
	t.Cleanup(func() { testrig.Unmount(t, dir) })
	return dir
}

// pack packs the input with the command.
func pack(t testing.TB, input string, more ...string) string {
	t.Helper()
	out := filepath.Join(testrig.MemoryDir(t), "x.bpk")
	testrig.Run(t, command(), append([]string{"pack", input, "-o", out, "--level", "fastest"}, more...)...)
	return out
}

// zoned packs the input with pages all over the image in the boot zone.
func zoned(t testing.TB, input string) string {
	t.Helper()
	ctx := context.Background()
	img, err := imagepack.Open(ctx, input, "")
	testrig.Must(t, err)
	defer img.Close()
	r := rand.New(rand.NewPCG(1, 2))
	pages := img.Size() / bpk.PageSize
	var boot []profiles.Range
	for range 40 {
		boot = append(boot, profiles.Range{ImageOff: r.Int64N(pages) * bpk.PageSize, Len: 1 + r.Int64N(2*bpk.PageSize)})
	}
	out := filepath.Join(testrig.MemoryDir(t), "zoned.bpk")
	st, err := imagepack.Write(ctx, out, img, imagepack.WriteOptions{Boot: boot, BodyLevel: zstd.SpeedFastest})
	testrig.Must(t, err)
	if st.BootPages == 0 {
		t.Fatal("no page in the boot zone")
	}
	return out
}

// loopMount mounts the image that is in a pack, extracted, by a loop device.
func loopMount(t testing.TB, packPath string) string {
	t.Helper()
	f, err := os.Open(packPath)
	testrig.Must(t, err)
	defer f.Close()
	st, err := f.Stat()
	testrig.Must(t, err)
	p, err := bpk.Open(f, st.Size())
	testrig.Must(t, err)
	image := filepath.Join(testrig.MemoryDir(t), "image")
	out, err := os.Create(image)
	testrig.Must(t, err)
	defer out.Close()
	testrig.Must(t, out.Truncate(p.Header.ImageSize))
	testrig.Must(t, p.Extract(context.Background(), out, out))
	return testrig.Mount(t, p.Header.Filesystem, image)
}

// webMount serves the pack's directory by `bootprof serve` and mounts the pack from there with the command.
func webMount(t testing.TB, packPath string) string {
	t.Helper()
	server := exec.Command(command(), "serve", filepath.Dir(packPath), "--listen", "127.0.0.1:0")
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said, err := server.StderrPipe()
	testrig.Must(t, err)
	testrig.Must(t, server.Start())
	t.Cleanup(func() {
		_ = server.Process.Signal(os.Interrupt)
		_ = server.Wait()
	})
	line, err := bufio.NewReader(said).ReadString('\n') // "serving DIR at http://127.0.0.1:12345/"
	testrig.Must(t, err)
	go io.Copy(io.Discard, said)
	url := strings.TrimSpace(line[strings.LastIndex(line, "http://"):])
	dir := testrig.MemoryDir(t)
	testrig.Run(t, command(), "mount", url+filepath.Base(packPath), dir)
	for _, m := range testrig.Mounts() {
		if m.Path == dir && (strings.Contains(m.Options, "nosuid") || strings.Contains(m.Options, "nodev") || strings.Contains(m.Options, "noexec")) {
			t.Errorf("mounted with the options %s: no root file system", m.Options)
		}
	}
	t.Cleanup(func() {
		testrig.Unmount(t, dir)
		testrig.Eventually(t, "the client ends after the unmount", func() bool {
			left, _ := os.ReadDir("/run/bootprof")
			return len(left) == 0
		})
	})
	return dir
}

// refused runs the command, which must end with the code, say one line that holds each of the words, and leave
// nothing at out.
func refused(t testing.TB, code int, out string, cmd *exec.Cmd, words ...string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run()
	said := stderr.String()
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("exit code %d, want %d", got, code)
	}
	if stdout.Len() > 0 || strings.Count(said, "\n") != 1 || !strings.HasSuffix(said, "\n") || !strings.HasPrefix(said, "bootprof: ") {
		t.Errorf("said %q and %q on stdout, want one line", said, stdout.String())
	}
	for _, w := range words {
		if !strings.Contains(said, w) {
			t.Errorf("said %q, want it to hold %q", said, w)
		}
	}
	if _, err := os.Lstat(out); err == nil {
		t.Errorf("%s is there", out)
	}
	t.Logf("%.300s", said)
}
