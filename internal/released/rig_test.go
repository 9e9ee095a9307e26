package released

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"bootprof/internal/testrig"
)

// buildDir is where command builds the program, a directory until the tests end.
var buildDir string

func TestMain(m *testing.M) {
	testrig.Private()
	testrig.EmptyRun()
	os.Exit(runIn(m))
}

func runIn(m *testing.M) (code int) {
	var err error
	if buildDir, err = os.MkdirTemp("", "released-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(buildDir)
	code = m.Run()
	if left := testrig.ImageMounts(); os.Geteuid() == 0 && len(left) > 0 {
		fmt.Fprintln(os.Stderr, "still mounted:", left)
		return 1
	}
	return code
}

var build = sync.OnceValues(func() (string, error) {
	path := filepath.Join(buildDir, "bootprof")
	out, err := exec.Command("go", "build", "-o", path, "bootprof/cmd/bootprof").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("building bootprof: %w\n%s", err, out)
	}
	return path, err
})

// bootprof runs the command, built from the sources, and returns its standard output.
func bootprof(t testing.TB, args ...string) string {
	t.Helper()
	path, err := build()
	testrig.Must(t, err)
	return testrig.Run(t, path, args...)
}

// A site is a plain web server that notes what it was asked for.
type site struct {
	url   string // with a slash at its end
	mu    sync.Mutex
	asked map[string]bool // paths below url
}

// serve serves a directory until the end of the test, and of the clients that mounted from it.
func serve(t testing.TB, dir string) *site {
	s := &site{asked: map[string]bool{}}
	files := http.FileServer(http.Dir(dir))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked[r.URL.Path[1:]] = true
		s.mu.Unlock()
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		testrig.Eventually(t, "the end of all clients", func() bool {
			left, _ := os.ReadDir("/run/bootprof")
			return len(left) == 0
		})
		srv.Close()
	})
	s.url = srv.URL + "/"
	return s
}

// wasAsked says whether a client asked for the path.
func (s *site) wasAsked(path string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[path]
}

// mounted mounts what lies at url with the command until the end of the test, and returns where.
func mounted(t testing.TB, url string, flags ...string) string {
	t.Helper()
	dir := t.TempDir()
	bootprof(t, append([]string{"mount", url, dir}, flags...)...)
	t.Cleanup(func() { testrig.Unmount(t, dir) })
	return dir
}

// sameTree compares what the kernel shows at dir with a listing that list.sh made.
func sameTree(t testing.TB, listing, dir string) {
	t.Helper()
	got := testrig.Run(t, testrig.Testdata(t, "list.sh"), dir)
	if want := testrig.ReadFile(t, listing); !bytes.Equal(want, []byte(got)) {
		cmd := exec.Command("diff", "-u", listing, "-")
		cmd.Stdin = bytes.NewReader([]byte(got))
		diff, _ := cmd.CombinedOutput()
		t.Errorf("another tree:\n%s", diff)
	}
}
