package faultserver

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"syscall"
	"testing"
)

// What an answer looks like to net/http when its form, or the connection, is at fault.
func TestForms(t *testing.T) {
	file := data(300_000)
	const off, n = 1000, 200_000
	rng := file[off : off+n]
	for _, c := range []struct {
		fault *Fault
		proto string
		len   int64 // Content-Length; -1: none
		body  []byte
		err   error
	}{
		{HTTP10(), "HTTP/1.0", -1, rng, nil},
		{Encoding("chunked"), "HTTP/1.1", -1, rng, nil},
		{Encoding("identity"), "HTTP/1.1", -1, rng, nil},
		{Short(100), "HTTP/1.1", n - 100, rng[:n-100], nil},
		{Long(2), "HTTP/1.1", n + 2, append(bytes.Clone(rng), 0xa5, 0xa5), nil},
		{Zeros(), "HTTP/1.1", n, make([]byte, n), nil},
		{Stale(500), "HTTP/1.1", n, file[off+500 : off+500+n], nil},
		{Stale(250_000), "HTTP/1.1", n, file[:n], nil},
		{Reset(), "", 0, nil, syscall.ECONNRESET},
		{Raw(""), "", 0, nil, io.EOF},
		{Raw("HTTP/1.1 206 Partial Content\r\n"), "", 0, nil, io.ErrUnexpectedEOF},
	} {
		t.Run(c.fault.Name, func(t *testing.T) {
			s := start(t, file)
			s.Script(First(1, c.fault))
			resp, body, err := get(t, s, off, n)
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if c.err == nil && (resp.Proto != c.proto || resp.ContentLength != c.len || !bytes.Equal(body, c.body) || resp.StatusCode != 206) {
				t.Errorf("%s %s, length %d, %d bytes", resp.Proto, resp.Status, resp.ContentLength, len(body))
			}
			if _, body, err := get(t, s, off, n); err != nil || !bytes.Equal(body, rng) {
				t.Errorf("the next request is not answered rightly: %v", err)
			}
		})
	}
	t.Run("reset after head", func(t *testing.T) {
		s := start(t, file)
		s.Script(First(1, ResetAfter(500)))
		if _, body, err := get(t, s, off, n); err == nil || len(body) > 500 {
			t.Errorf("%d bytes, %v", len(body), err)
		}
	})
	t.Run("multipart", func(t *testing.T) {
		s := start(t, file)
		s.Script(First(1, Multipart()))
		resp, body, err := get(t, s, off, n)
		if err != nil {
			t.Fatal(err)
		}
		_, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
		if err != nil {
			t.Fatal(err)
		}
		part, err := multipart.NewReader(bytes.NewReader(body), params["boundary"]).NextPart()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(part)
		if err != nil || !bytes.Equal(got, rng) || part.Header.Get("Content-Range") != "bytes 1000-200999/300000" {
			t.Errorf("%d bytes, %v, %v", len(got), part.Header, err)
		}
	})
}
