package erofs

import (
	"container/list"
	"sync"
)

const dataCacheBytes = 16 << 20 // unpacked pclusters shared by all open contents of a tree

// blockKey names what a pcluster unpacks to.
type blockKey struct {
	imageOff, imageLen, length int64
	alg                        byte
	partial                    bool
}

// A blockCache keeps unpacked pclusters, the ones used last, up to a number of bytes. Who asks for one that another
// is unpacking waits for that.
type blockCache struct {
	max int

	mu    sync.Mutex // guards what follows
	used  int
	items map[blockKey]*list.Element
	lru   list.List // of *cached, the last used in front
}

type cached struct {
	key  blockKey
	done chan struct{} // closed once data and err are set
	data []byte
	err  error
	cost int // bytes counted in used, 0 while unpacking
}

func newBlockCache(maxBytes int) *blockCache {
	return &blockCache{max: maxBytes, items: map[blockKey]*list.Element{}}
}

// get returns the bytes, unpacked by load if they are not there. The caller must not change them.
func (c *blockCache) get(key blockKey, load func() ([]byte, error)) ([]byte, error) {
	c.mu.Lock()
	if e, ok := c.items[key]; ok {
		c.lru.MoveToFront(e)
		c.mu.Unlock()
		it := e.Value.(*cached)
		<-it.done
		return it.data, it.err
	}
	it := &cached{key: key, done: make(chan struct{})}
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

func (c *blockCache) remove(e *list.Element) {
	it := e.Value.(*cached)
	if c.items[it.key] == e {
		delete(c.items, it.key)
		c.lru.Remove(e)
		c.used -= it.cost
	}
}
