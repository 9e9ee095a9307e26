package mountclient

import (
	"sync/atomic"
	"testing"

	"bootprof/internal/faultserver"
)

// telling makes a server tell this of its file; "" is left out.
func telling(etag, modified string) *faultserver.Fault {
	return &faultserver.Fault{Name: "telling", Change: func(_ *faultserver.Request, a *faultserver.Answer, _ []byte) {
		for key, v := range map[string]string{"ETag": etag, "Last-Modified": modified} {
			if v == "" {
				a.Header.Del(key)
			} else {
				a.Header.Set(key, v)
			}
		}
	}}
}

const (
	oneDate   = "Mon, 02 Jan 2023 03:04:05 GMT"
	otherDate = "Tue, 03 Jan 2023 03:04:05 GMT"
)

// Several servers are used if they tell the same of the image; else one of them is. That two are used shows where the
// first that is asked for a window is silent: which of them that is, and whether it would have been asked for all of the
// windows, is for the throughput to say that the opening had.
func TestPlainMirrors(t *testing.T) {
	t.Parallel()
	image := plainImage(8 << 20)
	for name, c := range map[string]struct {
		first, second *faultserver.Fault
		both          bool
	}{
		"same date":            {telling(`"a"`, oneDate), telling(`"b"`, oneDate), true},
		"same ETag":            {telling(`"a"`, oneDate), telling(`"a"`, ""), true},
		"another date":         {telling(`"a"`, oneDate), telling(`"b"`, otherDate), false},
		"date missing":         {telling(`"a"`, oneDate), telling(`"b"`, ""), false},
		"weak ETag, no date":   {telling(`W/"a"`, ""), telling(`W/"a"`, ""), false},
		"nothing told by both": {telling("", ""), telling("", ""), false},
	} {
		t.Run(name, func(t *testing.T) {
			one, a := servePlain(t, image)
			two, b := servePlain(t, image)
			var silent atomic.Bool // the next request gets no answer
			for server, tells := range map[*faultserver.Server]*faultserver.Fault{a: c.first, b: c.second} {
				server.Script(func(faultserver.Request) *faultserver.Fault {
					if silent.CompareAndSwap(true, false) {
						return faultserver.Hang()
					}
					return tells
				})
			}
			cl := mustOpen(t, one.url(plainName)+","+two.url(plainName), nil)
			n, m := len(a.Requests()), len(b.Requests())
			silent.Store(c.both)
			checkImage(t, cl, image, 1<<20)
			used := len(a.Requests()) > n && len(b.Requests()) > m
			if used != c.both {
				t.Errorf("%d and %d requests for windows; both are to be used: %t", len(a.Requests())-n, len(b.Requests())-m, c.both)
			}
		})
	}
	t.Run("replaced in use", func(t *testing.T) {
		one, _ := servePlain(t, image)
		two, b := servePlain(t, image)
		cl := mustOpen(t, one.url(plainName)+","+two.url(plainName), nil)
		b.Script(faultserver.Always(&faultserver.Fault{Name: "other", Change: func(_ *faultserver.Request, a *faultserver.Answer, _ []byte) {
			a.Header.Set("Last-Modified", otherDate)
			a.Header.Set("ETag", `"other"`)
			a.Body = make([]byte, len(a.Body)) // the old ones are the image's
		}}))
		cl.fetch.setInUse()
		checkImage(t, cl, image, 1<<20)
	})
}
