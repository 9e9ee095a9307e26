package mountclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"bootprof/internal/faultserver"
	"bootprof/internal/testrig"
)

func TestParseContentRange(t *testing.T) {
	for _, c := range []struct {
		v                string
		start, end, size int64
		ok               bool
	}{
		{"bytes 0-0/1", 0, 1, 1, true},
		{"bytes 0-99/1234", 0, 100, 1234, true},
		{"bytes 100-1233/1234", 100, 1234, 1234, true},
		{"bytes 9223372036854775805-9223372036854775806/9223372036854775807", math.MaxInt64 - 2, math.MaxInt64, math.MaxInt64, true},
		{v: ""},
		{v: "bytes"},
		{v: "bytes "},
		{v: "bytes 0-99"},
		{v: "bytes 0-99/"},
		{v: "bytes 0-99/*"},
		{v: "bytes */1234"},
		{v: "bytes 0-99/99"},   // the last byte lies outside
		{v: "bytes 99-0/1234"}, // backwards
		{v: "bytes -1-5/10"},
		{v: "bytes 0--5/10"},
		{v: "bytes 0-9223372036854775808/9223372036854775809"},
		{v: "bytes 0-9223372036854775807/9223372036854775807"},
		{v: "items 0-99/1234"},
		{v: "0-99/1234"},
		{v: "bytes 0x0-0x5/10"},
		{v: "bytes 0 - 5/10"},
	} {
		start, end, size, ok := parseContentRange(c.v)
		if ok != c.ok || ok && (start != c.start || end != c.end || size != c.size) {
			t.Errorf("%q: [%d, %d) of %d, %t; want [%d, %d) of %d, %t", c.v, start, end, size, ok, c.start, c.end, c.size, c.ok)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-99/1234", "bytes 0-99/*", "bytes */5", "bytes 5-4/9", "bytes 9223372036854775807-9223372036854775807/9223372036854775807", "bytes --/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, v string) {
		start, end, size, ok := parseContentRange(v)
		if !ok {
			return
		}
		if start < 0 || end <= start || end > size {
			t.Fatalf("%q: [%d, %d) of %d", v, start, end, size)
		}
		again := fmt.Sprintf("bytes %d-%d/%d", start, end-1, size)
		if s, e, z, ok := parseContentRange(again); !ok || s != start || e != end || z != size {
			t.Fatalf("%q is read as %q, which is read as [%d, %d) of %d, %t", v, again, s, e, z, ok)
		}
	})
}

func TestSourceURLs(t *testing.T) {
	for _, url := range []string{"", "pack.bpk", "/pack.bpk", "file://host/pack.bpk", "file:pack.bpk", "ftp://host/x", "http://", "http:///x", "http://[::1", "http://host:x/", ":"} {
		_, err := newHTTPSource(url)
		if err == nil {
			t.Errorf("%q is taken", url)
		} else if ExitCode(err) != ExitUsage {
			t.Errorf("%q: exit code %d for %q, want %d", url, ExitCode(err), err, ExitUsage)
		}
	}
	for _, url := range []string{"ftp://me:secret@host/x", "http://me:secret@host:x/y"} {
		if _, err := newHTTPSource(url); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: error %v, want one without the password", url, err)
		}
	}
	s, err := newHTTPSource("https://me:secret@host/x?y=1")
	if err != nil || strings.Contains(s.shown, "secret") {
		t.Errorf("shown: %v, %v", s, err)
	}
}

// get hands over the bytes of one answer, or none and an error that says what was wrong with it.
func TestGet(t *testing.T) {
	file := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
	const off, n = 1000, 100_000
	for _, c := range []struct {
		fault     *faultserver.Fault
		got       int64 // bytes handed over
		permanent bool
		says      string // in the error; "": no error
	}{
		{fault: nil, got: n},
		{fault: faultserver.Headers(30_000), got: n},
		{fault: faultserver.ShortRange(300), got: 300},
		{fault: faultserver.Status(404), permanent: true, says: "404 Not Found"},
		{fault: faultserver.Status(403), permanent: true, says: "403 Forbidden"},
		{fault: faultserver.Status(401), permanent: true, says: "401"},
		{fault: faultserver.Status(429), says: "429"},
		{fault: faultserver.Status(408), says: "408"},
		{fault: faultserver.Status(500), says: "500"},
		{fault: faultserver.Status(503, "Retry-After", "1"), says: "503"},
		{fault: faultserver.Status(204), permanent: true, says: "204"},
		{fault: faultserver.NotSatisfiable(), permanent: true, says: "416"},
		{fault: faultserver.HTML(), permanent: true, says: "HTML"},
		{fault: faultserver.FullBody(), says: "ranges"},
		{fault: faultserver.WrongRange(16), permanent: true, says: "another range"},
		{fault: faultserver.ContentRange(""), permanent: true, says: "another range"},
		{fault: faultserver.ContentRange("bytes 1000-100999/*"), permanent: true, says: "another range"},
		{fault: faultserver.ContentRange("bytes 1000-101000/320000"), permanent: true, says: "another range"},
		{fault: faultserver.Gzip(), permanent: true, says: "gzip"},
		{fault: faultserver.Headers(100_000), says: "header"},
		{fault: faultserver.Cut(0), says: "EOF"},
		{fault: faultserver.Cut(70_000), got: 70_000, says: "EOF"},
		{fault: faultserver.Redirect("/other"), says: "redirect"}, // in a circle
	} {
		name := "none"
		if c.fault != nil {
			name = c.fault.Name
		}
		t.Run(name, func(t *testing.T) {
			s := serveBytes(t, file)
			src, err := newHTTPSource(s.URL("pack"))
			if err != nil {
				t.Fatal(err)
			}
			defer src.client.CloseIdleConnections()
			s.Script(faultserver.Always(c.fault))
			var out []byte
			got, err := src.get(t.Context(), off, n, func(b []byte) { out = append(out, b...) })
			if got != int64(len(out)) || !bytes.Equal(out, file[off:off+got]) {
				t.Fatalf("handed over %d bytes, says %d; error %v", len(out), got, err)
			}
			if got != c.got || (err == nil) != (c.says == "") || permanent(err) != c.permanent {
				t.Errorf("%d bytes, error %v, permanent: %t; want %d, %q, %t", got, err, permanent(err), c.got, c.says, c.permanent)
			}
			if err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %q does not say %q", err, c.says)
			}
			if err != nil && ExitCode(err) != ExitNetwork {
				t.Errorf("exit code %d for %v", ExitCode(err), err)
			}
		})
	}
}

// A redirect is followed, with the range.
func TestGetFollowsRedirects(t *testing.T) {
	file := bytes.Repeat([]byte("0123456789abcdef"), 1000)
	s := serveBytes(t, file)
	s.Script(func(r faultserver.Request) *faultserver.Fault {
		if r.Path == "/old" {
			return faultserver.Redirect("/new")
		}
		return nil
	})
	src, err := newHTTPSource(s.URL("old"))
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	if _, err := src.get(t.Context(), 5, 20, func(b []byte) { out = append(out, b...) }); err != nil || !bytes.Equal(out, file[5:25]) {
		t.Errorf("%q, %v", out, err)
	}
}

// The file is pinned by the first answer: other bytes are never mixed in.
func TestGetPinsTheFile(t *testing.T) {
	file := bytes.Repeat([]byte("0123456789abcdef"), 1000)
	for _, c := range []struct {
		name  string
		first *faultserver.Fault
		etag  string
		file  []byte
		ok    bool
	}{
		{"same", nil, `"v1"`, file, true},
		{"longer", nil, `"v1"`, append(file[:len(file):len(file)], 'x'), false},
		{"shorter", nil, `"v1"`, file[:len(file)-1], false},
		{"other ETag", nil, `"v2"`, file, false},
		{"ETag gone", nil, "", file, true},
		{"weak ETag", nil, `W/"v2"`, file, true}, // says nothing of the bytes; the digests do
		{"ETag comes", faultserver.ETag(""), `"v2"`, file, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serveBytes(t, file)
			if c.first != nil {
				s.Script(faultserver.First(1, c.first))
			}
			src, _ := newHTTPSource(s.URL("pack"))
			if _, err := src.get(t.Context(), 0, 100, func([]byte) {}); err != nil {
				t.Fatal(err)
			}
			s.Replace(c.file, c.etag)
			handed := 0
			_, err := src.get(t.Context(), 100, 100, func(b []byte) { handed += len(b) })
			var id *identityError
			if (err == nil) != c.ok || !c.ok && (!errors.As(err, &id) || handed > 0 || !permanent(err)) {
				t.Errorf("error %v, %d bytes handed over", err, handed)
			}
		})
	}
}

func TestGetEndsWithItsContext(t *testing.T) {
	s := serveBytes(t, make([]byte, 1000))
	for _, f := range []*faultserver.Fault{faultserver.Hang(), faultserver.Stall(10)} {
		s.Script(faultserver.Always(f))
		src, _ := newHTTPSource(s.URL("pack"))
		ctx, cancel := context.WithCancel(t.Context())
		n := len(s.Requests())
		go func() {
			s.Wait(n+1, testrig.Patience)
			cancel()
		}()
		if _, err := src.get(ctx, 0, 100, func([]byte) {}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", f.Name, err)
		}
	}
}
