package failover

import (
	"encoding/binary"
	"fmt"
)

// fillBlock writes pairs of block and number all over p, so that a torn or misplaced block can be told.
func fillBlock(p []byte, block, number uint64) {
	for i := 0; i < len(p); i += 16 {
		binary.LittleEndian.PutUint64(p[i:], block)
		binary.LittleEndian.PutUint64(p[i+8:], number)
	}
}

// readBlock returns the number that fillBlock wrote, 0 for zeroes.
func readBlock(p []byte, block uint64) (uint64, error) {
	first := [2]uint64{binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])}
	for i := 0; i < len(p); i += 16 {
		here := [2]uint64{binary.LittleEndian.Uint64(p[i:]), binary.LittleEndian.Uint64(p[i+8:])}
		if here != first {
			return 0, fmt.Errorf("block %d is torn at byte %d: %v after %v", block, i, here, first)
		}
	}
	if first[1] != 0 && first[0] != block {
		return 0, fmt.Errorf("block %d holds data of block %d", block, first[0])
	}
	return first[1], nil
}
