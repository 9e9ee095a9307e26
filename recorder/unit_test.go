package recorder

import (
	"bytes"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bootprof/imagepack/imagemap"
	"bootprof/profiles"
)

func TestLineWatch(t *testing.T) {
	type write struct {
		after time.Duration
		text  string
	}
	const ms = time.Millisecond
	for _, c := range []struct {
		name, re string
		writes   []write
		want     string // times of matches
	}{
		{"a line", "^ready$", []write{{ms, "not\nready\nmore\n"}}, "[1ms]"},
		{"in pieces", "^ready$", []write{{ms, "re"}, {ms, "ady"}, {ms, "\n"}}, "[3ms]"},
		{"carriage return", "^ready$", []write{{ms, "ready\r\n"}}, "[1ms]"},
		{"prompt", "login: $", []write{{ms, "x\nhost login: "}}, "[1ms]"},
		{"no prompt yet", "^log$", []write{{ms, "log"}, {90 * ms, "in"}, {ms, "\n"}}, "[]"},
		{"every line", "a", []write{{ms, "a\nb\na\n"}}, "[1ms 1ms]"},
		{"long line without end", "END$", []write{{ms, strings.Repeat("x", 3*maxLine)}, {ms, "END"}}, "[2ms]"},
		{"empty line", "^$", []write{{ms, "\n"}}, "[1ms]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				found := []time.Duration{}
				var mu sync.Mutex
				var out bytes.Buffer
				w := &lineWatch{out: &out, outMu: new(sync.Mutex), re: regexp.MustCompile(c.re),
					now: func() time.Duration { return time.Since(start) },
					found: func(at time.Duration) {
						mu.Lock()
						defer mu.Unlock()
						found = append(found, at)
					}}
				var all string
				for _, wr := range c.writes {
					time.Sleep(wr.after)
					w.Write([]byte(wr.text))
					all += wr.text
				}
				time.Sleep(2 * idleLine)
				synctest.Wait()
				mu.Lock()
				defer mu.Unlock()
				if fmt.Sprint(found) != c.want {
					t.Errorf("matched at %v, want %s", found, c.want)
				}
				if out.String() != all {
					t.Errorf("passed on %d bytes of %d", out.Len(), len(all))
				}
			})
		})
	}
}

func TestReadLog(t *testing.T) {
	l := newReadLog(10*page + 1)
	l.add(0, page) // before begin: not counted
	l.begin()
	l.add(3*page+1, 1)
	l.add(2*page, 4*page) // around what is there
	l.add(10*page, 1<<20) // over the end
	l.add(11*page, page)  // behind the end
	l.add(-page, page)
	touches, err := l.touchesUntil(time.Hour)
	var got []profiles.Range
	for _, x := range touches {
		got = append(got, profiles.Range{ImageOff: x.ImageOff, Len: x.Len})
	}
	want := []profiles.Range{{ImageOff: 3 * page, Len: page}, {ImageOff: 2 * page, Len: page}, {ImageOff: 4 * page, Len: 2 * page}, {ImageOff: 10 * page, Len: 1}}
	if !reflect.DeepEqual(got, want) || err != nil {
		t.Errorf("touches %v, %v, want %v", got, err, want)
	}
	if cut, _ := l.touchesUntil(touches[0].At); len(cut) == 0 || cut[len(cut)-1].At > touches[0].At {
		t.Errorf("cut at %v: %v", touches[0].At, cut)
	}
	if cut, _ := l.touchesUntil(-1); len(cut) != 0 {
		t.Errorf("cut before all: %v", cut)
	}
}

// TestReadLogAtOnce: from many goroutines every page is told once, in order of time.
func TestReadLogAtOnce(t *testing.T) {
	l := newReadLog(1000 * page)
	l.begin()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 1000 {
				l.add(int64((i*(g+1))%1000)*page, 3*page)
			}
		})
	}
	wg.Wait()
	touches, _ := l.touchesUntil(time.Hour)
	run := profiles.Run{Header: profiles.Header{ImageSize: 1000 * page}, Touches: touches}
	if err := run.Validate(); err != nil {
		t.Error(err)
	}
	if len(pages(&run)) != 1000 {
		t.Errorf("%d pages, want 1000", len(pages(&run)))
	}
}

func TestFileTouches(t *testing.T) {
	m := imagemap.New([]imagemap.Segment{
		{ImageOff: 0, ImageLen: 128, Kind: imagemap.Meta},
		{ImageOff: 1024, ImageLen: 64, Path: "", Kind: imagemap.Inode},
		{ImageOff: 2048, ImageLen: 64, Path: "f", Kind: imagemap.Inode},
		{ImageOff: page, ImageLen: 100, Path: "", Kind: imagemap.Dir, FileLen: 100},
		{ImageOff: 2 * page, ImageLen: 4 * page, Path: "f", FileOff: 8 * page, FileLen: 4 * page},
		{ImageOff: 8*page + 10, ImageLen: page, Path: "z", FileLen: 32 * page},              // compressed, over two pages
		{ImageOff: 9*page + 10, ImageLen: 100, Path: "z", FileOff: 32 * page, FileLen: 777}, // its next block
		{ImageOff: 10 * page, ImageLen: 10, Path: "p", FileLen: 10},                         // three in one page
		{ImageOff: 10*page + 10, ImageLen: 10, Path: "q", FileLen: 10},
		{ImageOff: 10*page + 20, ImageLen: 64, Path: "f", Kind: imagemap.Inode}, // more of f's inode
	})
	for _, c := range []struct {
		name    string
		touches []profiles.Touch
		want    []profiles.FileTouch
	}{
		{"nothing there", []profiles.Touch{{At: 1, ImageOff: 20 * page, Len: page}}, nil},
		{"metadata", []profiles.Touch{{At: 1, ImageOff: 0, Len: page}}, []profiles.FileTouch{
			{At: 1, Kind: profiles.KindMeta}, {At: 1, Kind: profiles.KindInode}, {At: 1, Path: "f", Kind: profiles.KindInode}}},
		{"directory", []profiles.Touch{{At: 1, ImageOff: page, Len: page}},
			[]profiles.FileTouch{{At: 1, Kind: profiles.KindDir, Len: 100}}},
		{"part of a plain file", []profiles.Touch{{At: 1, ImageOff: 3 * page, Len: page}, {At: 2, ImageOff: 5 * page, Len: 2 * page}},
			[]profiles.FileTouch{{At: 1, Path: "f", FileOff: 9 * page, Len: page}, {At: 2, Path: "f", FileOff: 11 * page, Len: page}}},
		{"compressed block, once", []profiles.Touch{{At: 1, ImageOff: 9 * page, Len: page}, {At: 2, ImageOff: 8 * page, Len: page}},
			[]profiles.FileTouch{{At: 1, Path: "z", Len: 32 * page}, {At: 1, Path: "z", FileOff: 32 * page, Len: 777}}},
		{"shared page, inode once", []profiles.Touch{{At: 1, ImageOff: 10 * page, Len: page}, {At: 2, ImageOff: 0, Len: page}},
			[]profiles.FileTouch{{At: 1, Path: "p", Len: 10}, {At: 1, Path: "q", Len: 10}, {At: 1, Path: "f", Kind: profiles.KindInode},
				{At: 2, Kind: profiles.KindMeta}, {At: 2, Kind: profiles.KindInode}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := fileTouches(m, c.touches); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
	if fileTouches(nil, []profiles.Touch{{Len: page}}) != nil {
		t.Error("file touches without a map")
	}
}

// TestKinds: a kind of the map is taken over as it is.
func TestKinds(t *testing.T) {
	for p, m := range map[profiles.Kind]imagemap.Kind{profiles.KindData: imagemap.Data, profiles.KindInode: imagemap.Inode,
		profiles.KindDir: imagemap.Dir, profiles.KindMeta: imagemap.Meta} {
		if uint8(p) != uint8(m) {
			t.Errorf("kind %d of profiles is %d of imagemap", p, m)
		}
	}
}

func TestUnder(t *testing.T) {
	for _, c := range []struct {
		path, dir string
		want      bool
	}{{"/a/b", "/a", true}, {"/a", "/a", true}, {"/ab", "/a", false}, {"/b/a", "/a", false}} {
		if under(c.path, c.dir) != c.want {
			t.Errorf("under(%q, %q) is not %v", c.path, c.dir, c.want)
		}
	}
}
