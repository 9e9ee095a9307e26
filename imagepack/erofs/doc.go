// Package erofs plans uncompressed EROFS images of a tree, and reads the tree and the map of any EROFS image.
//
// # Writing
//
// Plan decides where every byte of the image lies and keeps only the metadata; the image itself is
// never written to a file. An Image is an io.ReaderAt that makes the bytes asked for out of that metadata
// and of the files' contents. Planning reads no content at all.
//
// An image consists of five regions, each starting on a block:
//
//	dense    superblock, then for each directory, in path order: its inode, its entries if they fit in
//	         the same block, the inodes of its symlinks, devices, empty files and large files
//	shared   extended attributes that several inodes have in common, or that are large
//	dirs     the entry blocks of directories that are too large for the dense region
//	small    inode and content of each file that fits in one block together with its inode
//	data     the blocks of all other files, in the same order
//
// A boot touches few pages of this: the dense region holds 40 or so inodes per page, neighbours in a
// page are neighbours in the tree, and a small file costs the one page that holds both its inode and its
// content. Tails of larger files are not inlined unless Options.TailMax says so: inodes between the tails
// of shared libraries, which no boot reads, lie far apart.
//
// EROFS refers to everything by position: a directory entry to an inode (the node number is the offset
// in units of 32 bytes), an inode to its blocks. So one more byte somewhere could change the image
// everywhere after it. Three things keep that small:
//
//   - The bytes that tell positions are nearly all in the dense and dirs regions. Contents, and the small
//     files' inodes, read the same wherever they lie, so pages that only moved are still known by hash.
//   - Regions are cut into clusters at directories chosen by a hash of their path, and there is free room
//     (zeros, which are never read and compress to nothing) before each cut: growth inside a cluster
//     mostly moves nothing outside it. The room is 3 to 6 % of a region.
//   - No inode number or time stamp of the build is stored in inodes.
//
// # Reading
//
// ReadMap walks any EROFS image and says which file each range belongs to. ReadTree returns its tree, of compressed
// images too, so that they can be laid out anew. Images are foreign bytes: an image that contradicts itself is a
// *CorruptError, and work and memory are limited by the size of the image.
//
// A compressed file is cut into extents, each of which unpacks from a pcluster of one or more blocks. It may be
// compressed with LZ4, MicroLZMA, DEFLATE or Zstandard, be plain, be a hole, share its pcluster with other
// extents, lie behind the inode or in the packed inode, a hidden file of the tails of others. Indexes, one per
// block of content, tell where extents begin. They have 8 bytes, or 4 or 2 in packs of bit fields.
//
// Later additions are not read: 48-bit addresses, metadata that is compressed, more than one device.
//
// # Traps
//
//   - Inodes are all of the 64-byte kind: the 32-byte kind has no time stamp in most kernels.
//   - The number of the root inode has 16 bits: the root lies in the first 2 MiB.
//   - The superblock checksum covers the rest of its block too, so the first block holds no file content.
//   - Directory entries are sorted by bytes, and "." is not always first: "-" and "!" sort before it.
//   - An inline tail may not cross a block border; xattrs and chunk maps may.
//   - mkfs.erofs 1.5 ignores options it does not know, fragments and dedupe among them.
//   - Of compressed data the end is at the end of its pcluster, and zeros come before it.
//   - The UUID is made from the metadata only: images that differ in contents alone share it.
package erofs
