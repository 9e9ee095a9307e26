package serve

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A Request is one line of the access log.
type Request struct {
	Began     time.Time // to the millisecond
	Took      time.Duration
	Status    int
	BodyBytes int64  // bytes of body handed to the kernel
	SentBytes int64  // the same with headers
	Range     string // the header, "" if none
	Method    string
	Path      string
}

// Stats sums up requests.
type Stats struct {
	GETs      int   // GET requests, whatever their status
	Heads     int   // HEAD requests
	Errors    int   // requests with a status of 400 and above
	BodyBytes int64 // of all answers
}

// Stats sums up the requests that have ended and that began within [from, to); a zero time is no limit.
func (s *Server) Stats(from, to time.Time) (Stats, error) {
	requests, err := s.Requests(from, to)
	if err != nil {
		return Stats{}, err
	}
	var sum Stats
	for _, r := range requests {
		switch r.Method {
		case "GET":
			sum.GETs++
		case "HEAD":
			sum.Heads++
		}
		if r.Status >= 400 {
			sum.Errors++
		}
		sum.BodyBytes += r.BodyBytes
	}
	return sum, nil
}

// Requests lists the requests that have ended and that began within [from, to), in the order of their ends; a zero
// time is no limit. The log's times are milliseconds, so both limits are rounded down to them.
func (s *Server) Requests(from, to time.Time) ([]Request, error) {
	f, err := os.Open(filepath.Join(s.dir, "access.log"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all, err := parseLog(f)
	if err != nil {
		return nil, fmt.Errorf("reading nginx's access log: %w", err)
	}
	var within []Request
	for _, r := range all {
		if !from.IsZero() && r.Began.Before(from.Truncate(time.Millisecond)) {
			continue
		}
		if !to.IsZero() && !r.Began.Before(to.Truncate(time.Millisecond)) {
			continue
		}
		within = append(within, r)
	}
	return within, nil
}

// parseLog reads lines of the format in config. A last line without its end is one that is being written: it is left
// out.
func parseLog(r io.Reader) (requests []Request, err error) {
	in := bufio.NewReader(r)
	for n := 1; ; n++ {
		line, err := in.ReadString('\n')
		if err == io.EOF {
			return requests, nil
		}
		if err != nil {
			return nil, err
		}
		req, err := parseLine(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		requests = append(requests, req)
	}
}

func parseLine(line string) (r Request, err error) {
	// msec request_time status body_bytes bytes "range" "request"
	numbers, rest, ok := strings.Cut(line, ` "`)
	header, request, ok2 := strings.Cut(strings.TrimSuffix(rest, `"`), `" "`)
	f := strings.Fields(numbers)
	if !ok || !ok2 || len(f) != 5 {
		return r, fmt.Errorf("%q is not in the log's format", line)
	}
	ended, err1 := strconv.ParseFloat(f[0], 64)
	took, err2 := strconv.ParseFloat(f[1], 64)
	status, err3 := strconv.Atoi(f[2])
	body, err4 := strconv.ParseInt(f[3], 10, 64)
	sent, err5 := strconv.ParseInt(f[4], 10, 64)
	for _, err := range []error{err1, err2, err3, err4, err5} {
		if err != nil {
			return r, fmt.Errorf("%q: %w", line, err)
		}
	}
	r.Took = time.Duration(math.Round(took*1e3)) * time.Millisecond
	r.Began = time.UnixMilli(int64(math.Round(ended * 1e3))).Add(-r.Took)
	r.Status, r.BodyBytes, r.SentBytes = status, body, sent
	if header != "-" {
		r.Range = header
	}
	r.Method, request, _ = strings.Cut(request, " ")
	r.Path, _, _ = strings.Cut(request, " ")
	return r, nil
}
