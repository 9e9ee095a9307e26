package faultserver

import (
	"bytes"
	"fmt"
	"mime/multipart"
	"net/http"
	"net/textproto"
)

// Encoding sends the body with a transfer encoding: "chunked", or "identity" for one that only the end of the
// connection ends.
func Encoding(te string) *Fault {
	return fault(te, func(_ *Request, a *Answer, _ []byte) { a.Header.Set("Transfer-Encoding", te) })
}

// Short ends the body n bytes early; the head tells of the whole range, the length is that of the body.
func Short(n int) *Fault {
	return fault("body short", func(_ *Request, a *Answer, _ []byte) { a.Body = a.Body[:max(0, len(a.Body)-n)] })
}

// Long sends n bytes more than the range that the head tells of.
func Long(n int) *Fault {
	return fault("body long", func(_ *Request, a *Answer, _ []byte) {
		a.Body = append(bytes.Clone(a.Body), bytes.Repeat([]byte{0xa5}, n)...)
	})
}

// Zeros sends zeros in place of the bytes.
func Zeros() *Fault {
	return fault("zeros", func(_ *Request, a *Answer, _ []byte) { a.Body = make([]byte, len(a.Body)) })
}

// Stale sends bytes that lie shift further on in the file, or at its start, under the head of those asked for.
func Stale(shift int64) *Fault {
	return fault("stale", func(r *Request, a *Answer, file []byte) {
		n := int64(len(a.Body))
		off := r.Off + shift
		if off+n > int64(len(file)) {
			off = 0
		}
		a.Body = file[off : off+n]
	})
}

// Multipart sends the range as the one part of multipart/byteranges.
func Multipart() *Fault {
	return fault("multipart", func(_ *Request, a *Answer, _ []byte) {
		if a.Status != http.StatusPartialContent {
			return
		}
		var b bytes.Buffer
		w := multipart.NewWriter(&b)
		part, _ := w.CreatePart(textproto.MIMEHeader{"Content-Range": {a.Header.Get("Content-Range")}, "Content-Type": {"application/octet-stream"}})
		_, _ = part.Write(a.Body)
		_ = w.Close()
		a.Body = b.Bytes()
		a.Header.Del("Content-Range")
		a.Header.Set("Content-Type", fmt.Sprintf("multipart/byteranges; boundary=%s", w.Boundary()))
	})
}
