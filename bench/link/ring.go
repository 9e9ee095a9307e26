package link

import (
	"encoding/binary"
	"time"
)

// ring is the line: packets in order with the time at which each one comes out at the far end. It is one flat buffer,
// so that a packet costs no allocation. Not safe for concurrent use.
type ring struct {
	buf        []byte
	head, tail int // offsets of the oldest record and of the next one
	used       int // bytes of buf in use, with what was skipped at its end
	maxPacket  int
}

// recordHeader is the departure time (8 bytes) and the length (4 bytes) in front of each packet.
const recordHeader = 12

// A record of this length says that the rest of the buffer is skipped.
const wrapMark = 0xffffffff

func newRing(capBytes, maxPacket int) *ring {
	r := &ring{buf: make([]byte, capBytes+2*(maxPacket+recordHeader)), maxPacket: maxPacket}
	for i := 0; i < len(r.buf); i += 4096 { // have the pages now, not when a packet comes
		r.buf[i] = 1
	}
	return r
}

// slot returns the space for the next packet, nil if the ring is full.
func (r *ring) slot() []byte {
	need := recordHeader + r.maxPacket
	if rest := len(r.buf) - r.tail; rest < need {
		if r.used+rest+need > len(r.buf) {
			return nil
		}
		if rest >= recordHeader {
			binary.LittleEndian.PutUint32(r.buf[r.tail+8:], wrapMark)
		}
		r.used += rest
		r.tail = 0
	}
	if r.used+need > len(r.buf) {
		return nil
	}
	return r.buf[r.tail+recordHeader : r.tail+need]
}

// put keeps the n bytes that were written to the slot, to come out at the given time.
func (r *ring) put(n int, out time.Duration) {
	binary.LittleEndian.PutUint64(r.buf[r.tail:], uint64(out))
	binary.LittleEndian.PutUint32(r.buf[r.tail+8:], uint32(n))
	r.tail += recordHeader + n
	r.used += recordHeader + n
}

// first returns the oldest packet; nil if the ring is empty.
func (r *ring) first() (packet []byte, out time.Duration) {
	for r.used > 0 {
		rest := len(r.buf) - r.head
		if rest < recordHeader || binary.LittleEndian.Uint32(r.buf[r.head+8:]) == wrapMark {
			r.used -= rest
			r.head = 0
			continue
		}
		n := int(binary.LittleEndian.Uint32(r.buf[r.head+8:]))
		at := r.head + recordHeader
		return r.buf[at : at+n], time.Duration(binary.LittleEndian.Uint64(r.buf[r.head:]))
	}
	return nil, 0
}

// drop takes the oldest packet, of n bytes, out of the ring.
func (r *ring) drop(n int) {
	r.head += recordHeader + n
	r.used -= recordHeader + n
}
