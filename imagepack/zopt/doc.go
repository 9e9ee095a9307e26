// Package zopt compresses data into one Zstandard frame (RFC 8878), as small as the format allows within
// reason and no faster than needed: for what is compressed once and decoded at every boot.
//
// # How it works
//
// Data comes in chunks and leaves as blocks; each chunk ends with a block, so that a decoder can output
// all of it at once (a flush point), and matches go on reaching into earlier chunks. For each block of up
// to 128 KiB:
//
//	find     for every position, the nearest match of each length it can have (matchfinder.go: binary
//	         trees over the window, and a table for 3-byte matches)
//	parse    the sequences of literals and matches that cost the fewest bits under given prices
//	         (optimal.go: dynamic programming over all positions of the block)
//	split    the block where the statistics change, so that the parts with their own Huffman and FSE
//	         tables, or those of the part before, are smallest (split.go, also dynamic programming)
//	         and back to parse with the prices that these parts suggest, a few times
//	encode   each part as a block (block.go, literals.go, sequences.go over huffman.go and fse.go),
//	         choosing each table by its exact size
//
// On 13 MB of executable pages, in chunks of 128 KiB, the result is 1.6 % smaller
// than that of zstd -19 on the whole; splitting makes most of the difference.
//
// # Traps
//
//   - A block that turns out raw or RLE leaves the decoder's repeated offsets and tables as they were.
//     So the parser says offsets in bytes, and what value names an offset is settled only when the block is
//     written.
//   - With no literals before a match the values 1 to 3 mean other offsets (RFC 8878, 3.1.1.5).
//   - A treeless block uses the table of the last *compressed* literals, however far back. Repeated FSE
//     tables refer to the last block with sequences, in whatever mode; those of the predefined and RLE
//     modes are never repeated here.
//   - The order in a tree of the match finder must hold for every later search, so a position is
//     inserted only once enough bytes after it are known. The last few of a chunk wait for the next chunk.
//   - All costs are integers: floating point differs between machines, and the same input has to give the
//     same bytes.
package zopt
