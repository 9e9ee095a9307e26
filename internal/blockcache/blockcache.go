// Package blockcache keeps unpacked blocks of compressed images, the ones used last, up to a number of bytes. Who asks
// for a block that another is unpacking waits for that.
package blockcache

import (
	"container/list"
	"sync"
)

// A Cache holds unpacked blocks by what names them. Make one with New. Safe for concurrent use.
type Cache[K comparable] struct {
	max int

	mu    sync.Mutex // guards what follows
	used  int
	items map[K]*list.Element
	lru   list.List // of *cached[K], the last used in front
}

type cached[K comparable] struct {
	key  K
	done chan struct{} // closed once data and err are set
	data []byte
	err  error
	cost int // bytes counted in used, 0 while unpacking
}

// New makes an empty cache of at most maxBytes, but for the block used last.
func New[K comparable](maxBytes int) *Cache[K] {
	return &Cache[K]{max: maxBytes, items: map[K]*list.Element{}}
}

// Get returns the block, unpacked by load if it is not there. The caller must not change it. An error of load is not
// kept: the next Get tries again.
func (c *Cache[K]) Get(key K, load func() ([]byte, error)) ([]byte, error) {
	c.mu.Lock()
	if e, ok := c.items[key]; ok {
		c.lru.MoveToFront(e)
		c.mu.Unlock()
		it := e.Value.(*cached[K])
		<-it.done
		return it.data, it.err
	}
	it := &cached[K]{key: key, done: make(chan struct{})}
	e := c.lru.PushFront(it)
	c.items[key] = e
	c.mu.Unlock()

	it.data, it.err = load()
	close(it.done)

	c.mu.Lock()
	defer c.mu.Unlock()
	if it.err != nil {
		c.remove(e)
		return nil, it.err
	}
	if c.items[key] == e { // not pushed out meanwhile
		it.cost = cap(it.data)
		c.used += it.cost
	}
	for c.used > c.max && c.lru.Len() > 1 {
		c.remove(c.lru.Back())
	}
	return it.data, nil
}

func (c *Cache[K]) remove(e *list.Element) {
	it := e.Value.(*cached[K])
	if c.items[it.key] == e {
		delete(c.items, it.key)
		c.lru.Remove(e)
		c.used -= it.cost
	}
}
