package replication

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/s2"
)

// dirtySource is a bitmap in memory; *bitmap.Store is one. A run may come in parts, and bits may be set meanwhile.
type dirtySource interface {
	NextDirty(slot int, fromBlock uint64) (start, count uint64, ok bool)
}

// errBitmapChunk is wrapped by every error of decoding a chunk.
var errBitmapChunk = errors.New("bad bitmap chunk")

const (
	// maxBitmapPlainBytes bounds what a chunk expands to: over 100,000 runs.
	maxBitmapPlainBytes = 256 << 10
	// maxRunBytes is the most that one run takes.
	maxRunBytes = 2 * binary.MaxVarintLen64
)

// How the content of a chunk is stored.
const (
	chunkPlain byte = 0
	chunkS2    byte = 1
)

// encodeBitmapChunk describes the dirty blocks of slot from fromBlock on, as many as fit. nextBlock is where the next
// chunk begins; done says that there is none. A payload without a run is empty.
//
//	+--------+------------------+-----------+--------------+-----------+--------------+---
//	| method | first block      | gap       | length       | gap       | length       | ...
//	| 1 byte | uvarint          | uvarint   | uvarint >= 1 | uvarint   | uvarint >= 1 |
//	+--------+------------------+-----------+--------------+-----------+--------------+---
//
// A run begins gap blocks behind the end of the run before it, the first one behind first block. With method 1
// everything after the method is one S2 block.
func encodeBitmapChunk(src dirtySource, slot int, fromBlock, totalBlocks uint64) (payload []byte, nextBlock uint64, done bool, err error) {
	if fromBlock > totalBlocks {
		return nil, 0, false, fmt.Errorf("bitmap chunk from block %d of %d", fromBlock, totalBlocks)
	}
	plain := binary.AppendUvarint([]byte{chunkPlain}, fromBlock)
	head := len(plain)
	at := fromBlock
	for len(plain)+maxRunBytes <= maxBitmapPlainBytes {
		start, end := nextDirtyRun(src, slot, at, totalBlocks)
		if start == end {
			done = true
			break
		}
		plain = binary.AppendUvarint(plain, start-at)
		plain = binary.AppendUvarint(plain, end-start)
		at = end
	}
	if len(plain) == head {
		return nil, totalBlocks, true, nil
	}
	return compressChunk(plain), at, done || at == totalBlocks, nil
}

// nextDirtyRun returns the blocks [start, end) of the next run, its parts joined; start equals end if there is none.
func nextDirtyRun(src dirtySource, slot int, from, total uint64) (start, end uint64) {
	start, count, ok := src.NextDirty(slot, from)
	if !ok || start >= total {
		return total, total
	}
	end = min(start+count, total)
	for end < total {
		next, count, ok := src.NextDirty(slot, end)
		if !ok || next != end {
			break
		}
		end = min(end+count, total)
	}
	return start, end
}

// compressChunk makes the content smaller if it can. plain begins with the method.
func compressChunk(plain []byte) []byte {
	packed := s2.EncodeBetter(nil, plain[1:])
	if len(packed) >= len(plain)-1 {
		return plain
	}
	return append([]byte{chunkS2}, packed...)
}

// decodeBitmapChunk calls set for each run of a chunk, in ascending order, each within the first totalBlocks blocks.
// Runs before a bad one have been set; a set bit too many costs a copy and nothing else.
func decodeBitmapChunk(payload []byte, totalBlocks uint64, set func(startBlock, count uint64)) error {
	if len(payload) == 0 {
		return nil
	}
	plain, err := expandChunk(payload)
	if err != nil {
		return err
	}
	at, plain, err := takeUvarint(plain, totalBlocks)
	if err != nil {
		return err
	}
	for len(plain) > 0 {
		var gap, length uint64
		if gap, plain, err = takeUvarint(plain, totalBlocks-at); err != nil {
			return err
		}
		at += gap
		if length, plain, err = takeUvarint(plain, totalBlocks-at); err != nil {
			return err
		}
		if length == 0 {
			return fmt.Errorf("%w: an empty run at block %d", errBitmapChunk, at)
		}
		set(at, length)
		at += length
	}
	return nil
}

// expandChunk returns the content of a chunk that is not empty.
func expandChunk(payload []byte) ([]byte, error) {
	method, content := payload[0], payload[1:]
	switch method {
	case chunkPlain:
		if len(content) > maxBitmapPlainBytes {
			return nil, fmt.Errorf("%w: %d bytes, at most %d", errBitmapChunk, len(content), maxBitmapPlainBytes)
		}
		return content, nil
	case chunkS2:
		length, err := s2.DecodedLen(content)
		if err != nil || length > maxBitmapPlainBytes {
			return nil, fmt.Errorf("%w: expands to %d bytes, at most %d are allowed: %w", errBitmapChunk, length, maxBitmapPlainBytes,
				errors.Join(err, errFrameTooLong))
		}
		if content, err = s2.Decode(nil, content); err != nil {
			return nil, fmt.Errorf("%w: %w", errBitmapChunk, err)
		}
		return content, nil
	}
	return nil, fmt.Errorf("%w: unknown method %d", errBitmapChunk, method)
}

// takeUvarint returns the number that p begins with, which must not be above limit, and what follows it.
func takeUvarint(p []byte, limit uint64) (uint64, []byte, error) {
	value, size := binary.Uvarint(p)
	if size <= 0 {
		return 0, nil, fmt.Errorf("%w: it ends within a number", errBitmapChunk)
	}
	if value > limit {
		return 0, nil, fmt.Errorf("%w: %d where at most %d blocks are left", errBitmapChunk, value, limit)
	}
	return value, p[size:], nil
}
