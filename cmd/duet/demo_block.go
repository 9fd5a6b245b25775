package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// A block of the demonstration's load describes itself, so that whoever finds it knows which write of which block it is,
// and whether it is whole:
//
//	0        8        16       24                                4096
//	+--------+--------+--------+------------------ ... -----------+
//	| magic  | block  | version| noise made from block, version   |
//	+--------+--------+--------+------------------ ... -----------+
//
// All numbers are little-endian. The noise is different everywhere in the block, so that a mixture of two writes is
// recognised. A block of zeroes was never written: version 0.
const (
	blockMagic       = 0x6d65642074657564 // "duet dem"
	blockHeaderBytes = 24
)

// errBlockDamaged is returned for a block that no write of the load has left.
var errBlockDamaged = errors.New("its content is not that of any write")

// fillBlock makes the content of a block.
func fillBlock(p []byte, block, version uint64) {
	binary.LittleEndian.PutUint64(p[0:], blockMagic)
	binary.LittleEndian.PutUint64(p[8:], block)
	binary.LittleEndian.PutUint64(p[16:], version)
	state := block<<32 ^ version
	for at := blockHeaderBytes; at < demoBlockBytes; at += 8 {
		// splitmix64: cheap, and any two states give different noise.
		state += 0x9e3779b97f4a7c15
		z := state
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		binary.LittleEndian.PutUint64(p[at:], z^z>>31)
	}
}

// readBlock returns the version of a block that was found where block should be.
func readBlock(p []byte, block uint64) (version uint64, err error) {
	if len(p) != demoBlockBytes {
		return 0, fmt.Errorf("a block of %d bytes: %w", len(p), errBlockDamaged)
	}
	var expected [demoBlockBytes]byte
	if bytes.Equal(p, expected[:]) {
		return 0, nil
	}
	if binary.LittleEndian.Uint64(p) != blockMagic {
		return 0, errBlockDamaged
	}
	found := binary.LittleEndian.Uint64(p[8:])
	version = binary.LittleEndian.Uint64(p[16:])
	fillBlock(expected[:], found, version)
	switch {
	case !bytes.Equal(p, expected[:]) || version == 0:
		return 0, errBlockDamaged
	case found != block:
		return 0, fmt.Errorf("it holds what was written to block %d", found)
	}
	return version, nil
}
