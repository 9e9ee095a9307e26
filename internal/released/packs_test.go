package released

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"bootprof/imagepack/bpk"
	"bootprof/internal/testrig"
	"bootprof/profiles"
)

// versions returns the folders of testdata/packs, such as "v1.0".
func versions(t testing.TB) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(testrig.Testdata(t, "packs"))
	testrig.Must(t, err)
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// files returns the regular files below dir as paths relative to it.
func files(t testing.TB, dir string) (out []string) {
	t.Helper()
	testrig.Must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			rel, _ := filepath.Rel(dir, path)
			out = append(out, rel)
		}
		return err
	}))
	return out
}

// recorded tells whether a file beside the packs says what they hold.
func recorded(path string) bool {
	base := filepath.Base(path)
	return filepath.Ext(base) == ".sums" || base == "SHA256SUMS" || base == "tree.list"
}

// Every pack, split pack and manifest of every released version mounts over HTTP and holds what was recorded with
// it; nothing lies beside them that the client did not ask for.
func TestPacksMount(t *testing.T) {
	testrig.Slow(t)
	testrig.NeedMounts(t)
	for _, version := range versions(t) {
		dir := testrig.Testdata(t, "packs/"+version)
		web := serve(t, dir)
		for _, path := range files(t, dir) {
			if !slices.Contains([]string{".bpk", ".bpi", ".bpm"}, filepath.Ext(path)) {
				continue
			}
			urls := []string{path}
			if image, ok := bpk.ImageName(path); ok {
				urls = append(urls, image) // a user has the URL of either
			}
			for _, url := range urls {
				t.Run(version+"/"+url, func(t *testing.T) {
					listing := filepath.Join(dir, filepath.Dir(path), "tree.list")
					if _, err := os.Stat(listing); err == nil {
						sameTree(t, listing, mounted(t, web.url+url))
						return
					}
					// Its image is no file system.
					image := mounted(t, web.url+url, "--raw") + "/image"
					sum, _, _ := strings.Cut(testrig.Run(t, "sha256sum", image), " ")
					want := string(testrig.ReadFile(t, filepath.Join(dir, path+".sums")))
					if !strings.Contains(want, "\nimage "+sum+"\n") {
						t.Errorf("the image has the SHA-256 %s, want\n%s", sum, want)
					}
				})
			}
		}
		for _, path := range files(t, dir) {
			if !recorded(path) && !web.wasAsked(path) {
				t.Errorf("%s/%s: no client asked for it", version, path)
			}
		}
	}
}

// The files of a released version are what they were when it was released.
func TestPacksStay(t *testing.T) {
	for _, version := range versions(t) {
		dir := testrig.Testdata(t, "packs/"+version)
		known := map[string]bool{}
		for _, path := range files(t, dir) {
			full := filepath.Join(dir, path)
			switch filepath.Ext(path) {
			case ".bpk", ".bpi", ".bpm":
				h := open(t, full)
				if got := fmt.Sprintf("v%d.%d", h.Major, h.Minor); got != version {
					t.Errorf("%s/%s is of version %s", version, path, got)
				}
			case ".sums":
				pack := strings.TrimSuffix(full, ".sums")
				sum, _, _ := strings.Cut(testrig.Run(t, "sha256sum", pack), " ")
				if want := testrig.ReadFile(t, full); !strings.HasPrefix(string(want), "pack "+sum+"\n") {
					t.Errorf("%s has the SHA-256 %s, want\n%s", pack, sum, want)
				}
				known[strings.TrimSuffix(path, ".sums")] = true
			}
			if filepath.Base(path) == "SHA256SUMS" {
				testrig.Run(t, "sh", "-c", `cd "$0" && sha256sum --quiet -c SHA256SUMS`, filepath.Dir(full))
				for line := range strings.Lines(string(testrig.ReadFile(t, full))) {
					_, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
					known[filepath.Join(filepath.Dir(path), name)] = true
				}
			}
		}
		for _, path := range files(t, dir) {
			_, image := bpk.ImageName(path + bpk.ManifestSuffix)
			byName := strings.Contains(path, "chunks/") || image && known[path+bpk.ManifestSuffix] // the pack has their digests
			if !recorded(path) && !known[path] && !byName {
				t.Errorf("%s/%s: nothing says what it should hold", version, path)
			}
		}
	}
}

// There are packs and a profile of the version that is written now: a new version brings its own.
func TestVersionsAreComplete(t *testing.T) {
	for _, path := range []string{
		fmt.Sprintf("packs/v%d.%d/root.bpk", bpk.Major, bpk.Minor),
		fmt.Sprintf("packs/v%d.%d/manifest/root.img.bpm", bpk.Major, bpk.Minor),
		fmt.Sprintf("packs/v%d.%d/split/root.bpi", bpk.Major, bpk.Minor),
		fmt.Sprintf("packs/v%d.%d/tree/tree.bpk", bpk.Major, bpk.Minor),
		fmt.Sprintf("packs/v%d.%d/tree/tree.bpi", bpk.Major, bpk.Minor),
		fmt.Sprintf("packs/v%d.%d/tree/tree.sqfs.bpm", bpk.Major, bpk.Minor),
		fmt.Sprintf("profiles/v%d.bprof", profiles.Major),
		fmt.Sprintf("profiles/v%d-tree.bprof", profiles.Major),
	} {
		if _, err := os.Stat(testrig.Testdata(t, path)); err != nil {
			t.Errorf("%v (see testdata/README.md)", err)
		}
	}
}

// packs.sh writes the files that the released versions have, and leaves alone what is there.
func TestPacksScript(t *testing.T) {
	testrig.Slow(t)
	testrig.NeedMounts(t)
	_, err := build()
	testrig.Must(t, err)
	tmp := t.TempDir()
	script := testrig.Testdata(t, "packs.sh")
	args := []string{filepath.Join(buildDir, "bootprof"), tmp + "/tree", tmp + "/run.bprof"}
	testrig.Run(t, script, args...)
	current := fmt.Sprintf("packs/v%d.%d/tree", bpk.Major, bpk.Minor)
	names := func(dir string) []string {
		return slices.DeleteFunc(files(t, dir), func(path string) bool { return strings.HasPrefix(path, "chunks/") })
	}
	if got, want := names(tmp+"/tree"), names(testrig.Testdata(t, current)); !slices.Equal(got, want) {
		t.Errorf("it writes %q, %s has %q", got, current, want)
	}
	before := testrig.Run(t, "sha256sum", tmp+"/tree/SHA256SUMS", tmp+"/run.bprof")
	if out, err := exec.Command(script, args...).CombinedOutput(); err == nil {
		t.Errorf("it ran again: %s", out)
	}
	if after := testrig.Run(t, "sha256sum", tmp+"/tree/SHA256SUMS", tmp+"/run.bprof"); after != before {
		t.Errorf("written anew: %s, before\n%s", after, before)
	}
}
