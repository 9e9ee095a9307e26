package squashfs

import "bootprof/internal/blockcache"

// blockKey names a stored block: where it lies and its size word.
type blockKey struct {
	off  int64
	size uint32
}

type blockCache = blockcache.Cache[blockKey]

func newBlockCache(maxBytes int) *blockCache { return blockcache.New[blockKey](maxBytes) }
