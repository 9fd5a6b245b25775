package bitmap

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

const (
	magicLog       = 0x4c415544 // "DUAL" as bytes on disk
	magicDirectory = 0x49445544 // "DUDI"
	magicPage      = 0x47505544 // "DUPG"

	formatVersion = 1
	headBytes     = 40

	// maxSequence is more than any writer reaches, so that counting on from a sequence read from disk can't overflow.
	maxSequence = 1<<63 - 1
)

// castagnoli is read only. CRC32C is what the rest of the metadata uses, and processors compute it.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// head is what every block of the region begins with.
//
//	 0        4       6       8        12       16         24             32           36        40
//	┌────────┬───────┬───────┬────────┬────────┬──────────┬──────────────┬────────────┬─────────┐
//	│ magic  │version│ kind  │ CRC32C │ number │ sequence │ device bytes │ al extents │ 0       │
//	└────────┴───────┴───────┴────────┴────────┴──────────┴──────────────┴────────────┴─────────┘
type head struct {
	magic    uint32
	kind     uint16 // transaction or reset; copy of the directory; slot of a page
	number   uint32 // where the block belongs: its position, index or page number
	sequence uint64
}

// seal writes the head of a block whose body is complete, and the checksum over both.
func seal(b []byte, h head, g *geometry) {
	le := binary.LittleEndian
	le.PutUint32(b[0:], h.magic)
	le.PutUint16(b[4:], formatVersion)
	le.PutUint16(b[6:], h.kind)
	le.PutUint32(b[8:], 0)
	le.PutUint32(b[12:], h.number)
	le.PutUint64(b[16:], h.sequence)
	le.PutUint64(b[24:], g.deviceBytes)
	le.PutUint32(b[32:], g.alExtents)
	le.PutUint32(b[36:], 0)
	le.PutUint32(b[8:], crc32.Checksum(b[:diskBlockBytes], castagnoli))
}

// unseal checks a block read from disk and returns its head. The error is errBlank for zeroes, ErrVersion or ErrGeometry for a sound
// block that is not of this region, and errDamaged for all else.
func unseal(b []byte, magic uint32, g *geometry) (head, error) {
	le := binary.LittleEndian
	h := head{
		magic:    le.Uint32(b[0:]),
		kind:     le.Uint16(b[6:]),
		number:   le.Uint32(b[12:]),
		sequence: le.Uint64(b[16:]),
	}
	if h.magic == 0 && allZero(b) {
		return head{}, errBlank
	}
	if h.magic != magic {
		return head{}, fmt.Errorf("%w: magic is %#x, want %#x", errDamaged, h.magic, magic)
	}
	if got, want := le.Uint32(b[8:]), checksumOf(b); got != want {
		return head{}, fmt.Errorf("%w: checksum is %#x, want %#x", errDamaged, got, want)
	}
	if version := le.Uint16(b[4:]); version != formatVersion {
		return head{}, fmt.Errorf("%w: %d, want %d", ErrVersion, version, formatVersion)
	}
	deviceBytes, alExtents := le.Uint64(b[24:]), le.Uint32(b[32:])
	if deviceBytes != g.deviceBytes || alExtents != g.alExtents {
		return head{}, fmt.Errorf("%w: device of %d bytes and %d extents, want %d bytes and %d extents",
			ErrGeometry, deviceBytes, alExtents, g.deviceBytes, g.alExtents)
	}
	if h.sequence > maxSequence {
		return head{}, fmt.Errorf("%w: sequence is %d", errDamaged, h.sequence)
	}
	if le.Uint32(b[36:]) != 0 {
		return head{}, fmt.Errorf("%w: reserved bytes are not zero", errDamaged)
	}
	return h, nil
}

// checksumOf computes the checksum that a block should have, without changing it.
func checksumOf(b []byte) uint32 {
	var zero [4]byte
	sum := crc32.Update(0, castagnoli, b[:8])
	sum = crc32.Update(sum, castagnoli, zero[:])
	return crc32.Update(sum, castagnoli, b[12:diskBlockBytes])
}

// zeroes is read only; comparing with it is many times faster than a loop over bytes.
var zeroes [diskBlockBytes]byte

// allZero reports whether b, at most one block, holds nothing but zeroes.
func allZero(b []byte) bool { return bytes.Equal(b, zeroes[:len(b)]) }
