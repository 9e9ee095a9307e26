package mountclient

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"bootprof/internal/faultserver"
)

// whole requests ask for no range.
func wholeRequests(s *faultserver.Server) (n int) {
	for _, r := range s.Requests() {
		if !r.Ranged {
			n++
		}
	}
	return n
}

// A server that gives no ranges sends the file once, whatever was put on it; with a cache directory, the copy lies there.
func TestNoRanges(t *testing.T) {
	t.Parallel()
	p := packOf(t, hotAndCold)
	for _, c := range []struct {
		name   string
		serve  func(t testing.TB) *faultserver.Server
		change func(o *Options)
	}{
		{"pack", p.serve, nil},
		{"pack, cache", p.serve, func(o *Options) { o.CacheDir = t.TempDir() }},
		{"plain image", func(t testing.TB) *faultserver.Server { return serveBytes(t, p.image) }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := c.serve(t)
			s.Script(func(r faultserver.Request) *faultserver.Fault {
				if strings.HasSuffix(r.Path, ".bpm") {
					return faultserver.Status(404)
				}
				return faultserver.FullBody()
			})
			client, log := openMirrors(t, c.change, s)
			client.fetch.setInUse()
			checkImage(t, client, p.image, 100_000)
			if n := wholeRequests(s); n != 1 && c.name != "plain image" || n > 2 {
				t.Errorf("the file was sent %d times", n)
			}
			if n := len(s.Requests()); n > len(openingSegments)+4 {
				t.Errorf("%d requests", n)
			}
			if n := strings.Count(log.String(), "gives no ranges"); n != 1 {
				t.Errorf("told %d times", n)
			}
		})
	}
}

// A stream that breaks off is begun again, and gives up nothing of what came before. Another file is not mixed in.
func TestNoRangesBreaksOff(t *testing.T) {
	t.Parallel()
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	streams := 0
	s.Script(func(r faultserver.Request) *faultserver.Fault {
		if r.Ranged {
			return faultserver.FullBody()
		}
		if streams++; streams < 4 {
			return faultserver.Cut(int64(streams * len(p.raw) / 5))
		}
		return nil
	})
	c, _ := openMirrors(t, nil, s)
	c.fetch.setInUse()
	checkImage(t, c, p.image, 100_000)
	if streams != 4 {
		t.Errorf("%d streams", streams)
	}
}

func TestNoRangesReplaced(t *testing.T) {
	t.Parallel()
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	streams := 0
	s.Script(func(r faultserver.Request) *faultserver.Fault {
		if r.Ranged {
			return faultserver.FullBody()
		}
		switch streams++; {
		case streams == 1:
			return faultserver.Cut(int64(len(p.raw) / 5))
		case streams < 4:
			return faultserver.ETag(`"other"`)
		}
		return nil
	})
	c, _ := openMirrors(t, nil, s)
	c.fetch.setInUse()
	checkImage(t, c, p.image, 100_000)
	if c.fetch.src.count.corrupt.Load() > 0 || streams < 4 {
		t.Errorf("%d damaged chunks, %d streams", c.fetch.src.count.corrupt.Load(), streams)
	}
}

// Of two servers, the one without ranges is left alone while the other can be asked, and takes over when it is gone.
func TestNoRangesMirror(t *testing.T) {
	t.Parallel()
	p := packOf(t, hotAndCold)
	poor, good := p.serve(t), p.serve(t)
	poor.Script(faultserver.Always(faultserver.FullBody()))
	c, _ := openMirrors(t, nil, poor, good)
	c.fetch.setInUse()
	half := int64(len(p.image) / 2)
	buf := make([]byte, 64<<10)
	for off := int64(0); off < half; off += int64(len(buf)) {
		if _, err := c.ReadAt(t.Context(), buf, off); err != nil || !bytes.Equal(buf, p.image[off:off+int64(len(buf))]) {
			t.Fatal(off, err)
		}
	}
	if n := wholeRequests(poor); n != 0 {
		t.Errorf("the file was fetched whole %d times beside a good server", n)
	}
	good.Stop()
	checkImage(t, c, p.image, 100_000)
	if n := wholeRequests(poor); n != 1 {
		t.Errorf("the file was sent %d times by the server that is left", n)
	}
}

func TestDownloadWithoutRanges(t *testing.T) {
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	s.Script(faultserver.Always(faultserver.FullBody()))
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Download(t.Context(), s.URL("pack.bpk"), f, testLog(t), nil); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(f.Name())
	if err != nil || !bytes.Equal(got, p.raw) {
		t.Errorf("%d bytes of %d, %v", len(got), len(p.raw), err)
	}
}
