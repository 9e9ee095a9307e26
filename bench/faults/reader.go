package faults

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"sync"
	"time"
)

// A reader reads blocks until it is ended or all are read.
type reader struct {
	image, truth *os.File
	stop         chan struct{}
	done         chan struct{}

	mu    sync.Mutex
	reads []read // guarded by mu
}

type read struct {
	began, ended time.Time
	wrong        bool
	err          error
}

func startReader(image, truth string) (*reader, error) {
	r := &reader{stop: make(chan struct{}), done: make(chan struct{})}
	var err error
	if r.truth, err = os.Open(truth); err != nil {
		return nil, err
	}
	if r.image, err = os.Open(image); err != nil {
		r.truth.Close()
		return nil, err
	}
	info, err := r.truth.Stat()
	if err != nil {
		r.truth.Close()
		r.image.Close()
		return nil, err
	}
	go r.run(order(info.Size()))
	return r, nil
}

func (r *reader) run(blocks []int64) {
	defer close(r.done)
	defer r.truth.Close()
	defer r.image.Close()
	got, want := make([]byte, blockBytes), make([]byte, blockBytes)
	for _, off := range blocks {
		select {
		case <-r.stop:
			return
		default:
		}
		x := read{began: time.Now()}
		_, x.err = r.image.ReadAt(got, off)
		x.ended = time.Now()
		if x.err == nil {
			if _, err := r.truth.ReadAt(want, off); err != nil {
				panic("BUG: the image itself cannot be read: " + err.Error())
			}
			x.wrong = !bytes.Equal(got, want)
		}
		r.mu.Lock()
		r.reads = append(r.reads, x)
		r.mu.Unlock()
		if x.err != nil {
			time.Sleep(10 * time.Millisecond) // a client that fails each read at once would fill the memory
		}
	}
}

// end waits for the read under way and reports whether it was given up, long after the fault was over.
func (r *reader) end(over time.Time) (hung bool) {
	close(r.stop)
	select {
	case <-r.done:
		return false
	case <-time.After(giveUp - time.Since(over)):
		return true
	}
}

// outcome sums up. after: whether to tell how long the first block took after the end of the fault.
func (r *reader) outcome(over time.Time, after bool) (o Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range r.reads {
		if x.err != nil {
			o.Errors++
			if o.Error == "" {
				o.Error = cause(x.err)
			}
			continue
		}
		o.Reads++
		if x.wrong {
			o.Wrong++
		}
		o.Longest = max(o.Longest, x.ended.Sub(x.began))
		if after && o.After == 0 && x.ended.After(over) {
			o.After = x.ended.Sub(over)
		}
	}
	return o
}

// cause is the error of the system call alone.
func cause(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}
