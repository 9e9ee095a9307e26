package testrig

import (
	"bytes"
	"compress/flate"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A fakeTB is a test that says how it ended.
type fakeTB struct {
	testing.TB
	end string // "skip: ..." or "fail: ..."
}

func (f *fakeTB) Helper() {}

func (f *fakeTB) stop(kind, text string) {
	f.end = kind + ": " + text
	runtime.Goexit()
}

func (f *fakeTB) Skip(args ...any)                  { f.stop("skip", fmt.Sprint(args...)) }
func (f *fakeTB) Skipf(format string, args ...any)  { f.stop("skip", fmt.Sprintf(format, args...)) }
func (f *fakeTB) Fatal(args ...any)                 { f.stop("fail", fmt.Sprint(args...)) }
func (f *fakeTB) Fatalf(format string, args ...any) { f.stop("fail", fmt.Sprintf(format, args...)) }

// ended runs a test and returns how it ended, "" if it came to its own end.
func ended(t *testing.T, f func(t testing.TB)) string {
	fake := &fakeTB{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(fake)
	}()
	<-done
	return fake.end
}

// What a test needs and does not find skips it, and fails it where all must be there.
func TestMissing(t *testing.T) {
	const absent = "no-such-program"
	for name, c := range map[string]struct {
		test                 func(t testing.TB)
		without, withNeedAll string
	}{
		"missing": {func(t testing.TB) { Missing(t, "no %s", "disk") }, "skip: no disk", "fail: no disk"},
		"program": {func(t testing.TB) { NeedProgram(t, "sh", absent) }, "skip: needs " + absent, "fail: needs " + absent},
		"run":     {func(t testing.TB) { Run(t, absent) }, "skip: needs " + absent, "fail: needs " + absent},
		"nothing": {func(t testing.TB) { NeedProgram(t, "sh", "cat") }, "", ""},
	} {
		for env, want := range map[string]string{"": c.without, "1": c.withNeedAll} {
			t.Setenv(NeedAllEnv, env)
			if got := ended(t, c.test); !strings.HasPrefix(got, want) || want == "" && got != "" {
				t.Errorf("%s with %s=%s: %q, want %q", name, NeedAllEnv, env, got, want)
			}
		}
	}
	if got := ended(t, func(t testing.TB) { Elsewhere(t, "make %s", "other") }); got != "skip: make other" {
		t.Errorf("elsewhere, with %s: %q", NeedAllEnv, got)
	}
}

// A program that fails ends the test with what it printed.
func TestRunFails(t *testing.T) {
	got := ended(t, func(t testing.TB) { Run(t, "sh", "-c", "echo why >&2; exit 3") })
	if !strings.HasPrefix(got, "fail: sh -c") || !strings.Contains(got, "exit status 3\nwhy\n") {
		t.Errorf("%q", got)
	}
}

func TestTiers(t *testing.T) {
	t.Setenv(LongEnv, "")
	if got := ended(t, func(t testing.TB) { Long(t) }); !strings.HasPrefix(got, "skip: long") {
		t.Errorf("a long test: %q", got)
	}
	t.Setenv(LongEnv, "1")
	if got := ended(t, func(t testing.TB) { Long(t) }); got != "" {
		t.Errorf("a long test with %s: %q", LongEnv, got)
	}
	if got := ended(t, func(t testing.TB) { Slow(t) }); strings.HasPrefix(got, "skip: slow") != testing.Short() {
		t.Errorf("a slow test, short is %v: %q", testing.Short(), got)
	}
}

// Await asks until the time is over and once more then: what held in the meantime is not missed.
func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		held := func(d time.Duration) func() bool { return func() bool { return time.Since(began) >= d } }
		if !Await(time.Second, held(500*time.Millisecond)) || time.Since(began) > 510*time.Millisecond {
			t.Errorf("a condition of half a second: seen after %v", time.Since(began))
		}
		began = time.Now()
		if Await(time.Second, held(time.Hour)) || time.Since(began) < time.Second {
			t.Errorf("given up after %v", time.Since(began))
		}
		got := ended(t, func(t testing.TB) { Eventually(t, "the end of days", func() bool { return false }) })
		if got != "fail: the end of days: not within 2m0s" {
			t.Errorf("what never holds: %q", got)
		}
	})
}

func TestNoise(t *testing.T) {
	a, b := Noise(1, 100_000), Noise(2, 100_000)
	if bytes.Equal(a, b) || !bytes.Equal(a, Noise(1, 100_000)) || bytes.IndexByte(a, 0) >= 0 {
		t.Error("noise must differ by seed alone, and have no zeros")
	}
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, flate.BestCompression)
	Must(t, err)
	_, err = w.Write(a)
	Must(t, err)
	Must(t, w.Close())
	if packed.Len() < len(a)*8/10 { // seven bits of each byte are random
		t.Errorf("%d bytes compress to %d", len(a), packed.Len())
	}
}

func TestFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a/b/c")
	WriteFile(t, path, "text")
	if f, size := OpenFile(t, path); string(ReadFile(t, f.Name())) != "text" || size != 4 {
		t.Errorf("%s has %d bytes", path, size)
	}
	var dir string
	t.Run("memory", func(t *testing.T) {
		dir = MemoryDir(t)
		WriteFile(t, filepath.Join(dir, "f"), []byte("x"))
	})
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", dir, err)
	}
	if got := RunInput(t, "in", "cat"); got != "in" {
		t.Errorf("cat: %q", got)
	}
}

func TestFreePort(t *testing.T) {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", FreePort(t)))
	Must(t, err)
	l.Close()
}

func TestMounts(t *testing.T) {
	if !IsMounted("/proc") || IsMounted("/no/such/dir") {
		t.Errorf("mounts: %+v", Mounts())
	}
	for m, want := range map[MountPoint]bool{
		{FS: "fuse.bootprof", Device: "0:50"}: true, {FS: "squashfs", Device: "7:3"}: true, {FS: "erofs", Device: "0:9"}: true,
		{FS: "ext4", Device: "8:1"}: false, {FS: "fusectl", Device: "0:40"}: false,
	} {
		if m.IsImage() != want {
			t.Errorf("%+v: an image is %v", m, !want)
		}
	}
}
