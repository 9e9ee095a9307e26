// Package faults reads an image through a client while its server or link has a fault, and tells what the reader sees.
//
// A reader takes blocks of the image, in an order that is no order, until the fault is over and some more; each block is compared
// with the image itself. What counts is the outcome, not the speed.
//
// A client that downloads the whole image first has the fault meanwhile, and is read from afterwards.
//
// Traps. A client may never answer a read, so the reader is given up after a time, and the client's processes are killed before
// its mount is touched: their end fails what is still waiting in the kernel.
package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"bootprof/bench"
	"bootprof/bench/link"
	"bootprof/bench/serve"
)

// A Fault is one thing that goes wrong.
type Fault struct {
	Name string
	What string
	// Corrupt makes the first server's files wrong.
	Corrupt bool
	// begin and end are called with the reader under way; nil for a fault that is there from the start.
	begin, end    func(l *link.Link, s *serve.Server) error
	length        time.Duration
	before, after time.Duration // how long the reader reads before the fault and, at most, after it
}

// All lists the faults.
func All() []Fault {
	all := []Fault{
		{
			Name: "8 s outage", What: "all packets are lost for 8 s", length: 8 * time.Second,
			begin: func(l *link.Link, _ *serve.Server) error { l.SetDown(true); return nil },
			end:   func(l *link.Link, _ *serve.Server) error { l.SetDown(false); return nil },
		},
		{
			Name: "server down", What: "nginx is killed and started again after 8 s: connections are reset, new ones refused", length: 8 * time.Second,
			begin: func(_ *link.Link, s *serve.Server) error { return s.Kill() },
			end:   func(_ *link.Link, s *serve.Server) error { return s.Restart() },
		},
		{
			Name: "frozen server", What: "nginx is stopped (SIGSTOP) for 15 s: it accepts connections and answers nothing", length: 15 * time.Second,
			begin: func(_ *link.Link, s *serve.Server) error { return s.Freeze() },
			end:   func(_ *link.Link, s *serve.Server) error { return s.Thaw() },
		},
		{
			Name: "lying mirror", What: "one server has a byte in 64 KiB wrong, behind the first 256 KiB of each file, and the middle one of a file below 1 MiB; a client that can use two has a right one, too",
			Corrupt: true, length: 5 * time.Second,
		},
	}
	for i := range all {
		all[i].before, all[i].after = underWay, afterwards
	}
	return all
}

// An Outcome is what the reader saw.
type Outcome struct {
	Client  string        `json:"client"` // why the client did not even start, "" if it did
	Reads   int           `json:"reads"`  // blocks that came, right or wrong
	Wrong   int           `json:"wrong"`  // of these, with wrong bytes
	Errors  int           `json:"errors"` // reads that failed
	Error   string        `json:"error"`  // the first of these
	Hung    bool          `json:"hung"`   // a read was not answered long after the fault was over
	Longest time.Duration `json:"longest_ns"`
	After   time.Duration `json:"after_ns"` // from the end of the fault to the next block
}

// String is "survives", or what else there was.
func (o Outcome) String() string {
	switch {
	case o.Client != "":
		return "does not start: " + o.Client
	case o.Hung:
		return fmt.Sprintf("hangs (a read is not answered %v after the fault)", giveUp)
	case o.Wrong > 0 && o.Errors > 0:
		return fmt.Sprintf("wrong bytes in %d of %d reads, and %d reads fail (%s)", o.Wrong, o.Reads+o.Errors, o.Errors, o.Error)
	case o.Wrong > 0:
		return fmt.Sprintf("wrong bytes in %d of %d reads, no error", o.Wrong, o.Reads)
	case o.Errors > 0:
		return fmt.Sprintf("%d reads fail (%s)", o.Errors, o.Error)
	}
	s := "survives"
	if o.Longest > time.Second {
		s += fmt.Sprintf(", longest read %.1f s", o.Longest.Seconds())
	}
	if o.After > 0 {
		s += fmt.Sprintf(", goes on after %.1f s", o.After.Seconds())
	}
	return s
}

const (
	blockBytes = 64 << 10
	underWay   = 2 * time.Second // before the fault begins
	afterwards = 3 * time.Second // that the reader goes on after the fault
	giveUp     = 15 * time.Second
)

// Try makes the fault for one source.
func Try(ctx context.Context, src bench.Source, p link.Params, f Fault) (o Outcome) {
	err := try(ctx, src, p, f, &o)
	if err != nil && o.Client == "" {
		o.Client = err.Error()
	}
	return o
}

func try(ctx context.Context, src bench.Source, p link.Params, f Fault, o *Outcome) (err error) {
	work, err := os.MkdirTemp("", "bench-fault-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	truth, release, err := src.Truth(work)
	if err != nil {
		return err
	}
	defer release()
	links, files := []link.Params{p}, [][]string{src.Served}
	if f.Corrupt {
		lying, err := corruptAll(src.Served, filepath.Join(work, "lying"))
		if err != nil {
			return err
		}
		files = [][]string{lying}
		if src.Mirrors {
			links, files = append(links, p), append(files, src.Served)
		}
	}
	b, err := bench.OpenBed(links, files)
	if err != nil {
		return err
	}
	defer b.Close()
	// happen makes the fault, and returns when it was over and what the fault itself had to say.
	happen := func() (over time.Time, said string) {
		pause(ctx, f.before, nil)
		if f.begin != nil {
			if err := f.begin(b.Run.Link, b.Servers[0]); err != nil {
				said = err.Error()
			}
		}
		pause(ctx, f.length, nil)
		over = time.Now()
		if f.end != nil {
			if err := f.end(b.Run.Link, b.Servers[0]); err != nil {
				said = err.Error()
			}
		}
		return over, said
	}
	if src.Whole {
		return tryWhole(ctx, src, b, truth, f.after, happen, o)
	}
	image, err := src.Start(ctx, b)
	if err != nil {
		o.Client = bench.OneLine(err, 60, 120)
		b.Kill()
		return src.Stop(b)
	}
	r, err := startReader(image, truth)
	if err != nil {
		o.Client = bench.OneLine(err, 60, 120)
		b.Kill()
		return src.Stop(b)
	}
	over, said := happen()
	pause(ctx, f.after, r.done)
	hung := r.end(over)
	*o = r.outcome(over, f.begin != nil)
	o.Client, o.Hung = said, hung
	if hung || o.Errors > 0 {
		b.Kill() // what waits in the kernel fails, and lets go of the image
		<-r.done
	}
	// How a client ends that has been killed is of no interest.
	_ = src.Stop(b)
	return nil
}

// wholeTimeout is how long a download may take with the fault in it.
const wholeTimeout = 2 * time.Minute

// tryWhole makes the fault while the client downloads the image, and then reads it, for the time after or to its end.
func tryWhole(ctx context.Context, src bench.Source, b *bench.Bed, truth string, after time.Duration,
	happen func() (time.Time, string), o *Outcome) error {
	var said string
	happened := make(chan struct{})
	go func() {
		defer close(happened)
		_, said = happen()
	}()
	bounded, cancel := context.WithTimeout(ctx, wholeTimeout)
	defer cancel()
	image, err := src.Start(bounded, b)
	<-happened
	if err != nil {
		o.Client = bench.OneLine(err, 60, 120)
		b.Kill()
		return src.Stop(b)
	}
	r, err := startReader(image, truth)
	if err != nil {
		o.Client = bench.OneLine(err, 60, 120)
		return src.Stop(b)
	}
	pause(ctx, after, r.done)
	hung := r.end(time.Now())
	*o = r.outcome(time.Time{}, false)
	o.Client, o.Hung = said, hung
	<-r.done // what it reads is in memory
	return src.Stop(b)
}

// pause waits, unless ctx ends or done is closed; done may be nil.
func pause(ctx context.Context, d time.Duration, done <-chan struct{}) {
	select {
	case <-ctx.Done():
	case <-done:
	case <-time.After(d):
	}
}

// seed of the order of blocks: each client reads the same.
const seed = 7

// order of the blocks of an image.
func order(size int64) []int64 {
	blocks := make([]int64, size/blockBytes)
	for i := range blocks {
		blocks[i] = int64(i) * blockBytes
	}
	rand.New(rand.NewPCG(seed, 0)).Shuffle(len(blocks), func(i, k int) { blocks[i], blocks[k] = blocks[k], blocks[i] })
	return blocks
}
