package mountclient

import (
	"fmt"
	"testing"
	"time"

	"bootprof/internal/faultserver"
)

// A matrixFault hits a bounded number of answers; the server is well again afterwards.
type matrixFault struct {
	name      string
	fault     *faultserver.Fault
	endsStart bool // rightly permanent before the image is in use
}

func matrixFaults() []matrixFault {
	m := []matrixFault{
		{"closes before head", faultserver.Cut(0), false},
		{"closes in mid-body", faultserver.Cut(10_000), false},
		{"short range", faultserver.ShortRange(9000), false},
		{"slow head", faultserver.Delay(50 * time.Millisecond), false},
		{"headers of 16 KB", faultserver.Headers(16 << 10), false},
		{"headers of 100 KB", faultserver.Headers(100_000), false},
		{"redirect loop", faultserver.Redirect("/loop"), false},
		{"503 with Retry-After", faultserver.Status(503, "Retry-After", "1"), false},
		{"416", faultserver.NotSatisfiable(), true},
		{"captive portal", faultserver.HTML(), true},
		{"200 instead of 206", faultserver.FullBody(), true},
		{"wrong range", faultserver.WrongRange(4096), true},
		{"missing Content-Range", faultserver.ContentRange(""), true},
		{"gzip in the way", faultserver.Gzip(), true},
		{"bit flips", faultserver.FlipMiddle(), true},
	}
	for _, code := range []int{408, 429, 500, 502, 503, 504} {
		m = append(m, matrixFault{fmt.Sprint(code), faultserver.Status(code), false})
	}
	for _, code := range []int{401, 403, 404, 410} {
		m = append(m, matrixFault{fmt.Sprint(code), faultserver.Status(code), true})
	}
	return m
}

// Whatever the fault and its moment, the reader gets the image's bytes, no error, and the requests are bounded.
func TestFaultMatrix(t *testing.T) {
	const hits = 3
	p := packOf(t, hotAndCold)
	for _, f := range matrixFaults() {
		for _, phase := range []string{"start", "booting", "after"} {
			if phase == "start" && f.endsStart {
				continue
			}
			t.Run(phase+"/"+f.name, func(t *testing.T) {
				t.Parallel()
				s := p.serve(t)
				switch phase {
				case "start":
					s.Script(faultserver.First(hits, f.fault))
				case "booting": // the boot zone is still to come
					s.Script(func(r faultserver.Request) *faultserver.Fault {
						if r.Off >= openingBytes {
							return faultserver.Hang()
						}
						return nil
					})
				}
				c := openClient(t, s, nil)
				c.fetch.setInUse()
				if phase == "after" {
					eventually(t, "the boot zone", testWait, func() bool { return c.hot.Load() > 0 })
				}
				if phase != "start" {
					s.Script(faultserver.First(hits, f.fault))
				}
				checkImage(t, c, p.image, 64<<10)
				s.Script(nil)
				checkImage(t, c, p.image, 64<<10)
				hit := 0
				for _, r := range s.Requests() {
					if r.Fault == f.fault.Name {
						hit++
					}
				}
				if n := len(s.Requests()); n > 1000 || hit == 0 {
					t.Errorf("%d requests, %d of them hit by the fault", n, hit)
				}
			})
		}
	}
}
