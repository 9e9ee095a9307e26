package mountclient

import (
	"bytes"
	"fmt"
	"net/http"
	"time"

	"bootprof/internal/faultserver"
)

// matrixHits is how many answers a fault of the matrix changes that passes by itself.
const matrixHits = 3

// A matrixFault is a row of the fault matrix. Either begin makes it and end heals it, or it is in fault, which passes
// by itself after matrixHits requests.
type matrixFault struct {
	name   string
	fault  *faultserver.Fault // the requests that it hits are recorded under the row's name
	begin  func(*matrixServer)
	end    func(*matrixServer)
	silent bool // no request is recorded that hit it: the client's retries tell of it

	harmless bool // the client takes the answers: nothing is repeated

	// A fault that ends a start: with what exit code, and what the error says. atStart makes it; nil: fault in every answer.
	exit    int
	says    string
	atStart func(*matrixServer)
}

// A matrixServer is the server of one cell.
type matrixServer struct {
	*faultserver.Server
	p *testPack
}

// lasting is a row whose fault is in every answer until it is healed.
func lasting(name string, f *faultserver.Fault) matrixFault {
	named := &faultserver.Fault{Name: name, Change: f.Change}
	return matrixFault{name: name,
		begin: func(s *matrixServer) { s.Script(faultserver.Always(named)) },
		end:   func(s *matrixServer) { s.Script(nil) }}
}

// replacing is a row with another file under the URL for a time.
func replacing(name, etag string, change func(p *testPack) []byte, exit int, says string) matrixFault {
	begin := func(s *matrixServer) {
		s.Replace(change(s.p), etag)
		s.Script(nil)
	}
	return matrixFault{name: name, silent: true, begin: begin, atStart: begin, exit: exit, says: says,
		end: func(s *matrixServer) { s.Replace(s.p.raw, `"v1"`) }}
}

// lateHeader has the pack's header come after the other answers of the opening, and with the fault.
func lateHeader(f *faultserver.Fault) func(*matrixServer) {
	late := &faultserver.Fault{Name: f.Name, Change: func(r *faultserver.Request, a *faultserver.Answer, file []byte) {
		f.Change(r, a, file)
		a.Delay = 500 * time.Millisecond
	}}
	return func(s *matrixServer) {
		s.Script(func(r faultserver.Request) *faultserver.Fault {
			if r.Off == 0 {
				return late
			}
			return nil
		})
	}
}

// dated is 503 with the date form of Retry-After.
func dated(in time.Duration) *faultserver.Fault {
	return &faultserver.Fault{Change: func(r *faultserver.Request, a *faultserver.Answer, file []byte) {
		at := time.Now().Add(in).UTC().Format(http.TimeFormat)
		faultserver.Status(http.StatusServiceUnavailable, "Retry-After", at).Change(r, a, file)
	}}
}

// closedAfter is a right answer behind which the connection is closed, without a word of that in its head.
func closedAfter() *faultserver.Fault {
	return &faultserver.Fault{Change: func(_ *faultserver.Request, a *faultserver.Answer, _ []byte) { a.Cut = int64(len(a.Body)) }}
}

// otherSize is an answer that tells of a longer file.
func otherSize() *faultserver.Fault {
	return &faultserver.Fault{Change: func(r *faultserver.Request, a *faultserver.Answer, file []byte) {
		a.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", r.Off, r.Off+r.Len-1, len(file)+4096))
	}}
}

// unknownSize is an answer that does not tell the file's size.
func unknownSize() *faultserver.Fault {
	return &faultserver.Fault{Change: func(r *faultserver.Request, a *faultserver.Answer, _ []byte) {
		a.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/*", r.Off, r.Off+r.Len-1))
	}}
}

func matrixFaults() []matrixFault {
	stop := func(s *matrixServer) { s.Stop() }
	start := func(s *matrixServer) {
		s.Script(nil)
		if err := s.Start(); err != nil {
			panic(err)
		}
	}
	restart := lasting("server restarted on the same port", faultserver.Hang())
	restart.end = func(s *matrixServer) {
		s.Stop()
		start(s)
	}
	otherRange := "answered with another range"
	m := []matrixFault{
		// The network.
		{name: "connection refused", silent: true, begin: stop, end: start},
		restart,
		lasting("all connections reset for a time", faultserver.Reset()),
		{name: "reset before head", fault: faultserver.Reset()},
		{name: "reset after head", fault: faultserver.ResetAfter(0)},
		{name: "reset in mid-body", fault: faultserver.ResetAfter(5000)},
		{name: "closed before head", fault: faultserver.Raw("")},
		{name: "closed after head", fault: faultserver.Cut(0)},
		{name: "closed in mid-head", fault: faultserver.Raw("HTTP/1.1 206 Partial Content\r\nContent-Ra")},
		{name: "closed in mid-body", fault: faultserver.Cut(10_000)},
		{name: "keep-alive closed between requests", fault: closedAfter(), harmless: true},
		lasting("stall before head", faultserver.Hang()),
		lasting("stall after head", faultserver.Stall(0)),
		lasting("stall in mid-body", faultserver.Stall(5000)),
		lasting("trickle", faultserver.Slow(1000)),
		{name: "slow head", fault: faultserver.Delay(50 * time.Millisecond), harmless: true},
		{name: "not HTTP", fault: faultserver.Raw("\x16\x03\x01 SSH-2.0 what?\r\n\r\n")},

		// The form of an answer.
		{name: "HTTP/1.0", fault: faultserver.HTTP10(), harmless: true},
		{name: "chunked", fault: faultserver.Encoding("chunked"), harmless: true},
		{name: "no Content-Length", fault: faultserver.Encoding("identity"), harmless: true},
		{name: "headers of 16 KB", fault: faultserver.Headers(16 << 10), harmless: true},
		{name: "headers of 100 KB", fault: faultserver.Headers(100_000)},
		{name: "part of the range", fault: faultserver.ShortRange(9000), harmless: true},
		{name: "one byte only", fault: faultserver.ShortRange(1), harmless: true},
		{name: "body short", fault: faultserver.Short(100)},
		{name: "body long", fault: faultserver.Long(5000), harmless: true},
		{name: "body empty", fault: faultserver.Short(1 << 30)},
		{name: "gzip in the way", fault: faultserver.Gzip(), exit: ExitNetwork, says: "Content-Encoding: gzip"},
		{name: "multipart/byteranges", fault: faultserver.Multipart(), exit: ExitNetwork, says: otherRange},
		{name: "200 instead of 206", fault: faultserver.FullBody()},
		lasting("200 instead of 206 for a time", faultserver.FullBody()),
		{name: "captive portal", fault: faultserver.HTML(), exit: ExitNetwork, says: "HTML page"},
		{name: "wrong range", fault: faultserver.WrongRange(4096), exit: ExitNetwork, says: otherRange},
		{name: "Content-Range missing", fault: faultserver.ContentRange(""), exit: ExitNetwork, says: otherRange},
		{name: "Content-Range senseless", fault: faultserver.ContentRange("bytes 9-1/x"), exit: ExitNetwork, says: otherRange},
		{name: "Content-Range without the size", fault: unknownSize(), exit: ExitNetwork, says: otherRange},

		// Redirects.
		{name: "redirect", fault: faultserver.Redirect("/other/pack.bpk"), harmless: true},
		{name: "redirect, then well", fault: faultserver.Redirect("http://127.0.0.1:1/pack.bpk")},
		lasting("redirect loop", faultserver.Redirect("/loop")),

		// Answers in place of the file.
		{name: "429 with Retry-After 0", fault: faultserver.Status(429, "Retry-After", "0")},
		{name: "429 with Retry-After 1", fault: faultserver.Status(429, "Retry-After", "1")},
		{name: "503 with Retry-After 1", fault: faultserver.Status(503, "Retry-After", "1")},
		{name: "503 with a date", fault: dated(time.Second)},
		{name: "503 with a date that has passed", fault: dated(-time.Hour)},
		{name: "503 with a senseless Retry-After", fault: faultserver.Status(503, "Retry-After", "soon")},
		{name: "416", fault: faultserver.NotSatisfiable(), exit: ExitNetwork, says: "416 Requested Range Not Satisfiable"},

		// The file.
		{name: "weak ETag changes", fault: faultserver.ETag(`W/"v2"`), harmless: true},
		{name: "ETag missing", fault: faultserver.ETag(""), harmless: true},
		{name: "ETag changes and back", fault: faultserver.ETag(`"v2"`), exit: ExitNetwork, says: "was replaced on the server",
			atStart: lateHeader(faultserver.ETag(`"v2"`))},
		{name: "size changes and back", fault: otherSize(), exit: ExitNetwork, says: "was replaced on the server",
			atStart: lateHeader(otherSize())},
		replacing("file cut short and back", `"v2"`, func(p *testPack) []byte { return p.raw[:len(p.raw)/2] }, ExitFormat, "uploaded in part?"),
		replacing("file longer and back", `"v2"`, func(p *testPack) []byte { return append(bytes.Clone(p.raw), 0) }, ExitFormat, "uploaded in part?"),
		replacing("file empty and back", `"v2"`, func(*testPack) []byte { return nil }, ExitNetwork, "the file is empty"),
		replacing("file of a newer format and back", `"v2"`, (*testPack).newer, ExitFormat, "pack format 2.0"),

		// The bytes.
		{name: "flipped bit", fault: faultserver.FlipMiddle(), exit: ExitFormat, says: "header",
			atStart: func(s *matrixServer) { s.Script(faultserver.Always(faultserver.Flip(100))) }},
		{name: "zeros", fault: faultserver.Zeros(), exit: ExitFormat, says: "not a bootprof pack"},
		{name: "stale range", fault: faultserver.Stale(8192), exit: ExitFormat, says: "not a bootprof pack"},
	}
	for _, code := range []int{408, 421, 425, 429, 500, 502, 503, 504, 511} {
		m = append(m, matrixFault{name: fmt.Sprint(code), fault: faultserver.Status(code)})
	}
	for _, code := range []int{204, 304, 400, 401, 403, 404, 410} {
		m = append(m, matrixFault{name: fmt.Sprint(code), fault: faultserver.Status(code), exit: ExitNetwork,
			says: fmt.Sprintf("%d %s", code, http.StatusText(code))})
	}
	for i := range m {
		f := &m[i]
		if f.fault == nil {
			continue
		}
		named := &faultserver.Fault{Name: f.name, Change: f.fault.Change}
		f.begin = func(s *matrixServer) { s.Script(faultserver.First(matrixHits, named)) }
		if f.exit != 0 && f.atStart == nil {
			f.atStart = func(s *matrixServer) { s.Script(faultserver.Always(named)) }
		}
	}
	return m
}
