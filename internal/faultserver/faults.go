package faultserver

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A Fault changes the right answer to a request.
type Fault struct {
	Name   string // for the record of requests
	Change func(r *Request, a *Answer, file []byte)
}

func fault(name string, f func(r *Request, a *Answer, file []byte)) *Fault { return &Fault{name, f} }

// Hang takes the request and never answers.
func Hang() *Fault { return fault("hang", func(_ *Request, a *Answer, _ []byte) { a.Hang = true }) }

// Delay sends the answer's head later by d.
func Delay(d time.Duration) *Fault {
	return fault("delay", func(_ *Request, a *Answer, _ []byte) { a.Delay = d })
}

// Cut closes the connection after n bytes of the body.
func Cut(n int64) *Fault {
	return fault("cut", func(_ *Request, a *Answer, _ []byte) { a.Cut = n })
}

// Stall sends nothing more after n bytes of the body.
func Stall(n int64) *Fault {
	return fault("stall", func(_ *Request, a *Answer, _ []byte) { a.Stall = n })
}

// Slow sends the body at a rate in bytes per second.
func Slow(rate int) *Fault {
	return fault("slow", func(_ *Request, a *Answer, _ []byte) { a.Rate = rate })
}

// Status answers with a status and a short page. header are names and values.
func Status(code int, header ...string) *Fault {
	return fault(strconv.Itoa(code), func(_ *Request, a *Answer, _ []byte) {
		a.Status, a.Header = code, http.Header{"Content-Type": {"text/html"}}
		for i := 0; i+1 < len(header); i += 2 {
			a.Header.Set(header[i], header[i+1])
		}
		a.Body = []byte("<html><body>" + http.StatusText(code) + "</body></html>\n")
		if code == http.StatusNotModified || code == http.StatusNoContent {
			a.Body = nil
		}
	})
}

// HTML answers 200 with a page, as a captive portal does.
func HTML() *Fault {
	return fault("html", func(_ *Request, a *Answer, _ []byte) {
		a.Status, a.Header = http.StatusOK, http.Header{"Content-Type": {"text/html; charset=utf-8"}}
		a.Body = []byte("<!DOCTYPE html><html><head><title>Log in</title></head></html>\n")
	})
}

// FullBody ignores the range: 200 and the whole file.
func FullBody() *Fault {
	return fault("full body", func(_ *Request, a *Answer, file []byte) {
		a.Status, a.Body = http.StatusOK, file
		a.Header.Del("Content-Range")
		a.Header.Del("Accept-Ranges")
	})
}

// WrongRange answers 206 with bytes that lie shift further on in the file, and says so in Content-Range.
func WrongRange(shift int64) *Fault {
	return fault("wrong range", func(r *Request, a *Answer, file []byte) {
		if off := r.Off + shift; off < int64(len(file)) {
			a.setRange(file, off, min(r.Len, int64(len(file))-off))
		}
	})
}

// ContentRange answers 206 with the right bytes and another Content-Range; "" for none.
func ContentRange(v string) *Fault {
	return fault("content range", func(_ *Request, a *Answer, _ []byte) {
		a.Header.Del("Content-Range")
		if v != "" {
			a.Header.Set("Content-Range", v)
		}
	})
}

// ShortRange answers 206 with at most n bytes of the range, as RFC 9110 lets a server do.
func ShortRange(n int64) *Fault {
	return fault("short range", func(r *Request, a *Answer, file []byte) {
		if a.Status == http.StatusPartialContent {
			a.setRange(file, r.Off, min(n, r.Len))
		}
	})
}

// NotSatisfiable answers 416 whatever the range.
func NotSatisfiable() *Fault {
	return fault("416", func(_ *Request, a *Answer, file []byte) {
		a.Status, a.Body = http.StatusRequestedRangeNotSatisfiable, nil
		a.Header.Set("Content-Range", fmt.Sprintf("bytes */%d", len(file)))
	})
}

// Flip changes the byte at an offset of the file, where a range holds it.
func Flip(off int64) *Fault {
	return fault("flip", func(r *Request, a *Answer, _ []byte) {
		if at := off - r.Off; at >= 0 && at < int64(len(a.Body)) {
			a.Body = bytes.Clone(a.Body)
			a.Body[at] ^= 0x10
		}
	})
}

// FlipMiddle changes a byte in the middle of every body.
func FlipMiddle() *Fault {
	return fault("flip", func(_ *Request, a *Answer, _ []byte) {
		if len(a.Body) > 0 {
			a.Body = bytes.Clone(a.Body)
			a.Body[len(a.Body)/2] ^= 0x10
		}
	})
}

// Gzip compresses the bytes of the range and says so, though nobody asked for it.
func Gzip() *Fault {
	return fault("gzip", func(_ *Request, a *Answer, _ []byte) {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = w.Write(a.Body)
		_ = w.Close()
		a.Body = b.Bytes()
		a.Header.Set("Content-Encoding", "gzip")
	})
}

// Headers adds n bytes of header lines.
func Headers(n int) *Fault {
	return fault("headers", func(_ *Request, a *Answer, _ []byte) {
		for i, left := 0, n; left > 0; i, left = i+1, left-4000 {
			a.Header.Set(fmt.Sprintf("X-Filler-%d", i), strings.Repeat("x", min(left, 4000)))
		}
	})
}

// ETag answers rightly, but with another ETag.
func ETag(etag string) *Fault {
	return fault("etag", func(_ *Request, a *Answer, _ []byte) { a.Header.Set("Etag", etag) })
}

// Redirect answers 302.
func Redirect(url string) *Fault { return Status(http.StatusFound, "Location", url) }
