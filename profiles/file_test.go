package profiles

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "run.bprof")
	for _, run := range []*Run{madeRun(1, 50), exampleRun()} { // the second replaces the first
		if err := WriteFile(path, run); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadFile(path); err != nil || !reflect.DeepEqual(got, run) {
			t.Errorf("read %+v, %v", got, err)
		}
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("run.bprof", link); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(link, madeRun(2, 5)); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Lstat(link); err != nil || st.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link was replaced: %v, %v", st, err)
	}
	bad := exampleRun()
	bad.Touches[0].Len = 1
	if err := WriteFile(path, bad); err == nil {
		t.Error("wrote an invalid run")
	}
	if got, err := ReadFile(path); err != nil || len(got.Touches) != len(madeRun(2, 5).Touches) {
		t.Errorf("the file is not the one written before: %v", err)
	}
	ents, err := os.ReadDir(dir)
	if err != nil || len(ents) != 2 {
		t.Errorf("left in the directory: %v, %v", ents, err)
	}
	if err := WriteFile("/dev/null", exampleRun()); err != nil {
		t.Errorf("to a device: %v", err)
	}
	if st, err := os.Stat("/dev/null"); err != nil || st.Mode().IsRegular() {
		t.Fatalf("/dev/null is %v, %v", st.Mode(), err)
	}
}

func TestFileErrorsNameThePath(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadFile(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), dir) {
		t.Errorf("absent: %v", err)
	}
	if _, err := ReadFile("run.go"); !errors.Is(err, ErrNotProfile) || !strings.Contains(err.Error(), "run.go") {
		t.Errorf("foreign: %v", err)
	}
	if err := WriteFile(filepath.Join(dir, "no", "such"), exampleRun()); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), dir) {
		t.Errorf("no directory: %v", err)
	}
}
