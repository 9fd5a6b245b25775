package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
	"unicode/utf8"

	"duet/bitmap"
)

// An undo file holds what a replica that is given up held, block by block, before each is overwritten. Records are only ever
// appended. docs/ON_DISK_FORMAT.md specifies it byte by byte.

// ErrUndoFile is wrapped by every error about the content of an undo file.
var ErrUndoFile = errors.New("not a sound undo file")

const (
	undoMagic       = "DUETUN01" // its last two digits never change, versions are told apart by the version field
	undoVersion     = 1
	undoHeaderBytes = 4096
	undoRecordMagic = "UNDO"
	undoHeadBytes   = 32
	undoRecordBytes = undoHeadBytes + bitmap.BlockBytes
)

// Offsets in an undo file's header and in its records.
const (
	undoVersionAt    = 8
	undoCRCAt        = 12
	undoResourceIDAt = 16
	undoSizeAt       = 32
	undoForkAt       = 40
	undoDiscardAt    = 48
	undoCreatedAt    = 56
	undoClusterAt    = 64
	undoResourceAt   = 128
	undoNodeAt       = 192
	undoHeaderEnd    = 256

	undoRecordCRCAt     = 4
	undoRecordNumberAt  = 8
	undoRecordBlockAt   = 16
	undoRecordDurableAt = 24
)

// UndoIdentity says whose content an undo file holds.
type UndoIdentity struct {
	ClusterID, Resource, Node string
	ResourceID                [16]byte
	SizeBytes                 uint64
	ForkAt                    uint64 // generation in which the split began
	DiscardAt                 uint64 // generation in which the replica was given up
}

// undoHeader is the first block of an undo file.
type undoHeader struct {
	UndoIdentity
	Created time.Time // to the second
}

// encode returns the block.
//
//	  0 magic "DUETUN01"       8 version      12 CRC-32C       16 resource ID (16)
//	 32 size in bytes         40 generation of the split       48 generation of the decision
//	 56 created, Unix seconds 64 cluster id (64)              128 resource (64)         192 node (64)
//	256 0
func (h *undoHeader) encode() []byte {
	p := make([]byte, undoHeaderBytes)
	copy(p, undoMagic)
	binary.LittleEndian.PutUint32(p[undoVersionAt:], undoVersion)
	copy(p[undoResourceIDAt:], h.ResourceID[:])
	binary.LittleEndian.PutUint64(p[undoSizeAt:], h.SizeBytes)
	binary.LittleEndian.PutUint64(p[undoForkAt:], h.ForkAt)
	binary.LittleEndian.PutUint64(p[undoDiscardAt:], h.DiscardAt)
	binary.LittleEndian.PutUint64(p[undoCreatedAt:], uint64(h.Created.Unix()))
	putText(p[undoClusterAt:undoResourceAt], h.ClusterID)
	putText(p[undoResourceAt:undoNodeAt], h.Resource)
	putText(p[undoNodeAt:undoHeaderEnd], h.Node)
	binary.LittleEndian.PutUint32(p[undoCRCAt:], checksumWithout(p, undoCRCAt))
	return p
}

// checksumWithout is the CRC-32C of p with the four bytes at the offset taken as zero.
func checksumWithout(p []byte, at int) uint32 {
	sum := crc32.Update(0, castagnoli, p[:at])
	sum = crc32.Update(sum, castagnoli, make([]byte, 4))
	return crc32.Update(sum, castagnoli, p[at+4:])
}

// decodeUndoHeader reads the block. It takes what encode would write, and nothing else.
func decodeUndoHeader(p []byte) (undoHeader, error) {
	var h undoHeader
	switch {
	case len(p) != undoHeaderBytes || string(p[:undoVersionAt]) != undoMagic:
		return h, fmt.Errorf("%w: it does not begin as one", ErrUndoFile)
	case binary.LittleEndian.Uint32(p[undoCRCAt:]) != checksumWithout(p, undoCRCAt):
		return h, fmt.Errorf("%w: its header is damaged", ErrUndoFile)
	case binary.LittleEndian.Uint32(p[undoVersionAt:]) != undoVersion:
		return h, fmt.Errorf("%w: version %d, this program knows %d", ErrUndoFile, binary.LittleEndian.Uint32(p[undoVersionAt:]), undoVersion)
	}
	copy(h.ResourceID[:], p[undoResourceIDAt:])
	h.SizeBytes = binary.LittleEndian.Uint64(p[undoSizeAt:])
	h.ForkAt = binary.LittleEndian.Uint64(p[undoForkAt:])
	h.DiscardAt = binary.LittleEndian.Uint64(p[undoDiscardAt:])
	h.Created = time.Unix(int64(binary.LittleEndian.Uint64(p[undoCreatedAt:])), 0)
	var sound [3]bool
	h.ClusterID, sound[0] = getText(p[undoClusterAt:undoResourceAt])
	h.Resource, sound[1] = getText(p[undoResourceAt:undoNodeAt])
	h.Node, sound[2] = getText(p[undoNodeAt:undoHeaderEnd])
	if sound != [3]bool{true, true, true} || h.SizeBytes == 0 || h.SizeBytes%bitmap.BlockBytes != 0 || h.SizeBytes > bitmap.MaxDeviceBytes ||
		string(h.encode()) != string(p) {
		return undoHeader{}, fmt.Errorf("%w: its header is not as this version writes it", ErrUndoFile)
	}
	return h, nil
}

// undoRecord is one block as it was.
type undoRecord struct {
	Number  uint64 // from 1, by one
	Block   uint64
	Durable uint64 // so many records were on stable media when this one was written
	Content []byte // of bitmap.BlockBytes
}

// encode writes the record to the undoRecordBytes of dst.
//
//	0 magic "UNDO"   4 CRC-32C   8 number   16 block   24 durable   32 content (4,096)
func (r *undoRecord) encode(dst []byte) {
	copy(dst, undoRecordMagic)
	binary.LittleEndian.PutUint64(dst[undoRecordNumberAt:], r.Number)
	binary.LittleEndian.PutUint64(dst[undoRecordBlockAt:], r.Block)
	binary.LittleEndian.PutUint64(dst[undoRecordDurableAt:], r.Durable)
	copy(dst[undoHeadBytes:undoRecordBytes], r.Content)
	binary.LittleEndian.PutUint32(dst[undoRecordCRCAt:], checksumWithout(dst[:undoRecordBytes], undoRecordCRCAt))
}

// decodeUndoRecord reads the record of that number; ok is false for anything that is not sound. Content is p's.
func decodeUndoRecord(p []byte, number, blocks uint64) (r undoRecord, ok bool) {
	if len(p) != undoRecordBytes || string(p[:undoRecordCRCAt]) != undoRecordMagic ||
		binary.LittleEndian.Uint32(p[undoRecordCRCAt:]) != checksumWithout(p, undoRecordCRCAt) {
		return r, false
	}
	r = undoRecord{Number: binary.LittleEndian.Uint64(p[undoRecordNumberAt:]), Block: binary.LittleEndian.Uint64(p[undoRecordBlockAt:]),
		Durable: binary.LittleEndian.Uint64(p[undoRecordDurableAt:]), Content: p[undoHeadBytes:]}
	return r, r.Number == number && r.Block < blocks && r.Durable < r.Number
}

// undoOffset is where the record of a number is.
func undoOffset(number uint64) int64 { return undoHeaderBytes + int64(number-1)*undoRecordBytes }

// putText writes one byte of length and the text.
func putText(field []byte, text string) {
	field[0] = byte(min(len(text), len(field)-1))
	copy(field[1:1+field[0]], text)
}

// getText reads it.
func getText(field []byte) (text string, sound bool) {
	if int(field[0]) >= len(field) {
		return "", false
	}
	text = string(field[1 : 1+field[0]])
	return text, utf8.ValidString(text)
}
