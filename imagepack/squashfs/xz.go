package squashfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/therootcompany/xz"
)

// xzMaxDict is the largest dictionary, in bytes, that a block may ask for: as long as the largest block.
// mksquashfs allows none longer than the image's blocks.
const xzMaxDict = 1 << maxBlockLog

// xzFilters are the BCJ filters that are known, as the compressor's options name them: x86, PowerPC, IA-64, ARM,
// ARM-Thumb, SPARC and, of some later versions of squashfs-tools, ARM64. RISC-V, the next bit, is not.
const xzFilters = 0x7f

// checkXZOptions refuses an image whose options say that blocks may have gone through a filter that is not
// known. mksquashfs tries each filter for each block, so there need not be one in the first blocks.
func (r *Reader) checkXZOptions() error {
	if r.super.flags&flagCompOpts == 0 {
		return nil
	}
	b := make([]byte, 10) // header, dictionary size, filters
	if err := r.readFull(b, superLen); err != nil {
		return err
	}
	if binary.LittleEndian.Uint16(b)&plainMetaBit == 0 {
		return nil // a compressed block of options: the blocks themselves will tell
	}
	if filters := binary.LittleEndian.Uint32(b[6:]); filters&^xzFilters != 0 {
		return &UnsupportedError{fmt.Sprintf("compressed with xz and BCJ filters %#x", filters&^xzFilters)}
	}
	return nil
}

// xzCodec unpacks one xz stream per block. Decoders are kept: each has a dictionary, which no block makes
// larger than xzMaxDict, and 30 KiB of probabilities.
func xzCodec() codec {
	type decoder struct {
		in bytes.Reader
		z  *xz.Reader
	}
	pool := sync.Pool{New: func() any {
		z, _ := xz.NewReader(nil, xzMaxDict) // nothing is read, so nothing can go wrong
		return &decoder{z: z}
	}}
	return func(dst, src []byte) (int, error) {
		d := pool.Get().(*decoder)
		defer pool.Put(d) // also after an error: Reset forgets it
		d.in.Reset(src)
		err := d.z.Reset(&d.in)
		n := 0
		if err == nil {
			d.z.Multistream(false)
			n, err = readAllInto(dst, d.z)
		}
		if errors.Is(err, xz.ErrOptions) {
			if m, ok, e := unpackARM64(dst, src); ok {
				n, err = m, e
			}
		}
		d.in.Reset(nil)
		switch {
		case errors.Is(err, xz.ErrOptions), errors.Is(err, xz.ErrUnsupportedCheck):
			// The headers have checksums of their own: they are as they were written.
			err = &UnsupportedError{"compressed with xz and a filter or checksum that is not known"}
		case errors.Is(err, xz.ErrMemlimit):
			err = &UnsupportedError{fmt.Sprintf("compressed with xz and a dictionary of more than %d bytes", xzMaxDict)}
		}
		return n, err
	}
}
