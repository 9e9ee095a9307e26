package erofs

import "bootprof/imagepack/tree"

// maxChunkBits limits chunks to 1 GiB, so that a chunk's length fits in 32 bits everywhere.
const maxChunkBits = 30

// chunkLayout decides how a file with holes is stored. It returns the binary logarithm of the chunk size
// and the stored parts (without their place in the image), or no runs if the file is better stored flat:
// because no hole covers a block, or a chunk map would be longer than what it saves.
//
// The chunk size is the one that needs the fewest bytes for map and data together; of two equal ones the
// larger. A file that is all hole has runs, but empty ones.
func chunkLayout(n *tree.Inode) (bits byte, runs []run) {
	data := n.Data
	if n.Content == nil {
		data = []tree.Extent{}
	}
	if data == nil || n.Size < blockSize {
		return 0, nil
	}
	flat := alignUp(n.Size, blockSize)
	best := int64(-1)
	for b := byte(blockBits); b <= maxChunkBits; b++ {
		cost := (n.Size + 1<<b - 1) >> b * 4
		for _, r := range chunkRuns(data, n.Size, b) {
			cost += alignUp(r.length, blockSize)
		}
		if best < 0 || cost <= best {
			best, bits = cost, b
		}
		if int64(1)<<b >= n.Size {
			break
		}
	}
	if best >= flat {
		return 0, nil
	}
	return bits, chunkRuns(data, n.Size, bits)
}

// chunkRuns returns the parts of a file that chunks of 1<<bits bytes with any data in them cover,
// adjacent ones joined. The last chunk ends with the file.
func chunkRuns(data []tree.Extent, size int64, bits byte) []run {
	runs := []run{}
	for _, e := range data {
		lo := e.Off >> bits << bits
		hi := size
		if last := (e.Off + e.Len - 1) >> bits; last < (size-1)>>bits {
			hi = (last + 1) << bits
		}
		if k := len(runs) - 1; k >= 0 && lo <= runs[k].fileOff+runs[k].length {
			runs[k].length = hi - runs[k].fileOff
		} else {
			runs = append(runs, run{fileOff: lo, length: hi - lo})
		}
	}
	return runs
}

// putChunkMap writes the block address of each chunk, or the null address for a hole.
func putChunkMap(b []byte, f *file) {
	runs := f.runs
	for i := range f.chunks() {
		fileOff := i << f.chunkBits
		addr := uint32(nullBlock)
		for len(runs) > 0 && runs[0].fileOff+runs[0].length <= fileOff {
			runs = runs[1:]
		}
		if len(runs) > 0 && runs[0].fileOff <= fileOff {
			addr = uint32((runs[0].imageOff + fileOff - runs[0].fileOff) >> blockBits)
		}
		le.PutUint32(b[4*i:], addr)
	}
}
