package erofs

import "bootprof/internal/blockcache"

const dataCacheBytes = 16 << 20 // unpacked pclusters shared by all open contents of a tree

// blockKey names what a pcluster unpacks to.
type blockKey struct {
	imageOff, imageLen, length int64
	alg                        byte
	partial                    bool
}

type blockCache = blockcache.Cache[blockKey]

func newBlockCache(maxBytes int) *blockCache { return blockcache.New[blockKey](maxBytes) }
