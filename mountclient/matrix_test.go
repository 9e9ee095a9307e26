package mountclient

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"bootprof/imagepack/bpk"
	"bootprof/internal/testrig"
)

// Bounds of one cell of the matrix.
const (
	cellTime     = testrig.Patience // a cell that takes longer hangs; that of a well machine takes a second
	cellRequests = 600              // in all; a cell without a fault makes about 30, a redirect loop the most
)

var matrixPhases = []string{"start", "booting", "after"}

// Whatever the fault and its moment, the reader gets the image's bytes and no error, and the client is well when the
// fault is over. The image was read from its directory before it was packed.
func TestFaultMatrix(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	p := packOf(t, lean)
	late := watchLateness(t)
	names := map[string]bool{}
	for _, f := range matrixFaults() {
		if names[f.name] {
			t.Errorf("two faults are called %q", f.name)
		}
		names[f.name] = true
		for _, phase := range matrixPhases {
			t.Run(phase+"/"+f.name, func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithTimeoutCause(t.Context(), cellTime, fmt.Errorf("the cell hangs after %v", cellTime))
				defer cancel()
				cell := &matrixCell{T: t, f: f, s: &matrixServer{p.serve(t), p}, ctx: ctx, late: late}
				if phase == "start" && f.exit != 0 {
					cell.endsStart()
				} else {
					cell.survives(phase)
				}
				if n := len(cell.s.Requests()); n > cellRequests {
					t.Errorf("%d requests", n)
				}
			})
		}
	}
	if len(names) < 40 {
		t.Errorf("%d faults", len(names))
	}
}

// A matrixCell is one fault at one moment.
type matrixCell struct {
	*testing.T
	f   matrixFault
	s   *matrixServer
	ctx context.Context // its end is the watchdog: it gives the reader an error

	late *lateness
	over outageEnd // when a fault that lasts was healed
}

func (m *matrixCell) open() (*Client, error) {
	c, err := Open(m.ctx, Options{URL: m.s.URL("pack.bpk"), Log: testLog(m), MemoryBytes: bpk.PageSize})
	if err == nil {
		m.Cleanup(func() { c.Close() })
	}
	return c, err
}

func (m *matrixCell) mustOpen() *Client {
	m.Helper()
	c, err := m.open()
	if err != nil {
		m.Fatal(err)
	}
	return c
}

// endsStart checks that the fault ends a start with one line that tells of it, and that the next one is well.
func (m *matrixCell) endsStart() {
	m.f.atStart(m.s)
	c, err := m.open()
	if c != nil {
		m.Fatal("the start does not end")
	}
	if code, line := ExitCode(err), err.Error(); code != m.f.exit || strings.Contains(line, "\n") || !strings.Contains(line, m.f.says) ||
		!strings.Contains(line, m.s.URL("")) {
		m.Errorf("exit code %d, %q; want %d and one line with %q and the URL", code, line, m.f.exit, m.f.says)
	}
	m.s.Script(nil)
	if m.f.end != nil {
		m.f.end(m.s)
	}
	c = m.mustOpen()
	c.fetch.setInUse()
	m.check(c)
	m.well(c)
}

// survives checks that a reader of the image sees nothing of the fault.
func (m *matrixCell) survives(phase string) {
	var c *Client
	healed := make(chan struct{})
	switch phase {
	case "start":
		m.f.begin(m.s)
		go m.heal(nil, healed)
		c = m.mustOpen()
		c.fetch.setInUse()
	case "booting":
		m.s.Script(beyondOpening)
		c = m.mustOpen()
		c.fetch.setInUse()
		if c.hot.Load() != 0 {
			m.Fatal("the boot zone is complete before its bytes came")
		}
		m.f.begin(m.s)
		go m.heal(c, healed)
	case "after":
		c = m.mustOpen()
		c.fetch.setInUse()
		testrig.Eventually(m, "the boot zone", func() bool { return c.hot.Load() > 0 })
		m.f.begin(m.s)
		go m.heal(c, healed)
	}
	m.check(c)
	select {
	case <-healed:
	case <-m.ctx.Done():
		m.Fatal("the fault was never met")
	}
	m.resumed(c)
	if !m.f.silent && !m.met() {
		m.Error("no request met the fault")
	}
	if repeated := c.fetch.src.count.retries.Load() + c.fetch.src.count.corrupt.Load(); m.f.harmless && repeated > 0 {
		m.Errorf("%d requests were repeated", repeated)
	}
	m.s.Script(nil)
	m.well(c)
}

// heal ends a fault that does not pass by itself, once it was met. A start has no client to ask whether it was.
func (m *matrixCell) heal(c *Client, healed chan<- struct{}) {
	defer close(healed)
	if m.f.end == nil {
		return
	}
	if m.f.silent && c == nil {
		time.Sleep(500 * time.Millisecond) // the length of the fault
	}
	for m.ctx.Err() == nil && !(m.f.silent && c == nil) && !(m.f.silent && c.fetch.src.count.retries.Load() > 0) && !m.met() {
		time.Sleep(5 * time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond) // others meet it, too
	m.over = m.late.outageEnds()
	m.f.end(m.s)
}

// resumed checks that the server is asked again soon after a fault that lasted was healed. What is sent slowly goes on as
// it is, and what lies here as a whole is not asked for.
func (m *matrixCell) resumed(c *Client) {
	if at, ok := firstAnswer(m.s.Server, m.over.at); ok && m.f.end != nil && c.fetch.src.pin.standIn(nil) == nil {
		m.over.resumed(m, m.f.name, at, resumeWithin)
	}
}

// met tells whether a request has met the fault.
func (m *matrixCell) met() bool {
	for _, r := range m.s.Requests() {
		if r.Fault == m.f.name {
			return true
		}
	}
	return false
}

// check reads the whole image and compares it.
func (m *matrixCell) check(c *Client) {
	m.Helper()
	want, buf := m.s.p.image, make([]byte, 64<<10)
	for off := 0; off < len(want); off += len(buf) {
		n, err := c.ReadAt(m.ctx, buf, int64(off))
		if w := want[off:min(len(want), off+len(buf))]; err != nil || !bytes.Equal(buf[:n], w) {
			m.Fatalf("image [%d +%d): %d bytes, %v, equal: %t", off, len(buf), n, err, bytes.Equal(buf[:n], w))
		}
	}
}

// well checks that nothing is left of the fault: the boot zone is completed, no request is failing, and what has to be
// asked for again comes without a retry.
func (m *matrixCell) well(c *Client) {
	m.Helper()
	testrig.Eventually(m, "the boot zone", func() bool { return c.hot.Load() > 0 })
	testrig.Eventually(m, "the end of the outage", func() bool {
		c.fetch.mu.Lock()
		defer c.fetch.mu.Unlock()
		return c.fetch.failed == 0 && !c.fetch.down
	})
	pages := c.Size() / bpk.PageSize
	end := bpk.Range{Page: pages / 4 * 3, Pages: pages - pages/4*3}
	testrig.Eventually(m, "a store without the image's end", func() bool {
		c.store.release(end) // over the budget of one page, it is dropped
		left := c.store.lacking([]bpk.Range{end})
		return len(left) == 1 && left[0] == end
	})
	count := c.fetch.src.count
	requests, retries := count.requests.Load(), count.retries.Load()
	m.check(c)
	isLocal := c.fetch.src.pin.standIn(nil) != nil // then nothing has to be asked for
	if count.requests.Load() == requests && !isLocal || count.retries.Load() != retries {
		m.Errorf("when the fault is over: %d requests, %d of them repeated", count.requests.Load()-requests, count.retries.Load()-retries)
	}
}

// The table in docs/faults.md has the rows, columns and cells of the matrix.
func TestFaultMatrixIsDocumented(t *testing.T) {
	var b strings.Builder
	b.WriteString("| fault | " + strings.Join(matrixPhases, " | ") + " |\n|---|---|---|---|\n")
	for _, f := range matrixFaults() {
		cell := "waits"
		if f.harmless {
			cell = "nothing"
		}
		start := cell
		if f.exit != 0 {
			start = fmt.Sprintf("exit %d: `%s`", f.exit, f.says)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", f.name, start, cell, cell)
	}
	doc, err := os.ReadFile("../docs/faults.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(doc), "\n\n"+b.String()+"\n") {
		t.Errorf("docs/faults.md has another table than:\n%s", &b)
	}
}
