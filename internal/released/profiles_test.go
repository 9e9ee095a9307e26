package released

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"bootprof/imagepack/bpk"
	"bootprof/internal/testrig"
	"bootprof/profiles"
)

// releasedProfiles returns the paths of the profiles in testdata. They are called vMAJOR.bprof or vMAJOR-NAME.bprof.
func releasedProfiles(t *testing.T) []string {
	paths, err := filepath.Glob(testrig.Testdata(t, "profiles/*"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no profiles: %v", err)
	}
	return paths
}

// Every profile of every released version is read.
func TestProfilesAreRead(t *testing.T) {
	for _, path := range releasedProfiles(t) {
		run, err := profiles.ReadFile(path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if len(run.Touches) == 0 || len(run.FileTouches) == 0 || len(run.Marks) == 0 {
			t.Errorf("%s: %d touches, %d of files, %d marks", path, len(run.Touches), len(run.FileTouches), len(run.Marks))
		}
		version, _, _ := strings.Cut(strings.TrimSuffix(filepath.Base(path), ".bprof"), "-")
		if b := testrig.ReadFile(t, path); version != fmt.Sprintf("v%d", b[8]) {
			t.Errorf("%s is of version %d", path, b[8])
		}
	}
}

// analyze takes each of them alone, and that of the tree with the pack it was recorded on. pack takes the tree's
// for an image that is built anew.
func TestProfilesAreUsed(t *testing.T) {
	testrig.Slow(t)
	analyze := func(path string, flags ...string) {
		out := bootprof(t, append([]string{"analyze", path, "--link", "100mbit/20ms", "--json"}, flags...)...)
		if !strings.Contains(out, `"image_sha256"`) {
			t.Errorf("analyze %s %s: %s", path, flags, out)
		}
	}
	for _, path := range releasedProfiles(t) {
		analyze(path)
		if !strings.HasSuffix(path, "-tree.bprof") {
			continue
		}
		run, err := profiles.ReadFile(path)
		testrig.Must(t, err)
		recordedOn := 0
		for _, version := range versions(t) {
			pack := testrig.Testdata(t, "packs/"+version+"/tree/tree.bpk")
			if open(t, pack).ImageSHA256 == run.Header.ImageSHA256 {
				analyze(path, "--pack", pack)
				recordedOn++
			}
		}
		if recordedOn == 0 {
			t.Errorf("%s was recorded on none of the packs", path)
		}
		anew := filepath.Join(t.TempDir(), "anew.bpk")
		bootprof(t, "pack", testrig.Testdata(t, "images/tree.tar.gz"), "-o", anew, "--fs", "squashfs", "--profile", path)
		if open(t, anew).BootPages == 0 {
			t.Errorf("packed with %s there is no boot zone", path)
		}
	}
}

// open returns the header of a pack.
func open(t *testing.T, path string) *bpk.Header {
	t.Helper()
	p, f, err := bpk.OpenFile(path)
	testrig.Must(t, err)
	f.Close()
	return p.Header
}
