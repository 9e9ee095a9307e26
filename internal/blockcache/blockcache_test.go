package blockcache

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
)

func TestBound(t *testing.T) {
	c := New[int](1000)
	loads := 0
	get := func(i int) {
		data, err := c.Get(i, func() ([]byte, error) { loads++; return make([]byte, 300), nil })
		if err != nil || len(data) != 300 {
			t.Fatalf("%d bytes, %v", len(data), err)
		}
	}
	for i := range 10 {
		get(i)
		get(i)
		get(0) // stays, being used
	}
	if loads != 10 || c.used > 1000 || len(c.items) != c.lru.Len() || c.used != 300*len(c.items) {
		t.Errorf("%d loads, %d bytes, %d and %d blocks", loads, c.used, len(c.items), c.lru.Len())
	}
}

func TestErrorIsNotKept(t *testing.T) {
	c := New[string](1000)
	broken := errors.New("broken")
	if _, err := c.Get("x", func() ([]byte, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Errorf("Get = %v", err)
	}
	if b, err := c.Get("x", func() ([]byte, error) { return []byte("now"), nil }); string(b) != "now" || err != nil {
		t.Errorf("Get after an error = %q, %v", b, err)
	}
}

// Readers of one block share one load.
func TestConcurrentGets(t *testing.T) {
	c := New[int](1 << 20)
	var loads atomic.Int64
	enter := make(chan struct{})
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			b, err := c.Get(i%4, func() ([]byte, error) {
				<-enter
				loads.Add(1)
				return []byte{byte(i % 4)}, nil
			})
			if err != nil || len(b) != 1 || b[0] != byte(i%4) {
				t.Errorf("Get(%d) = %v, %v", i%4, b, err)
			}
		})
	}
	close(enter)
	all.Wait()
	if loads.Load() != 4 {
		t.Errorf("%d loads of 4 blocks", loads.Load())
	}
}
