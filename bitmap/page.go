package bitmap

import (
	"encoding/binary"
	"fmt"

	"github.com/bits-and-blooms/bitset"
)

const (
	pageBodyOffset = 128
	pageWords      = blocksPerPage / 64
)

// pageID names one page of one slot.
type pageID struct {
	slot uint8
	page uint32
}

// encodePage fills the body of b with the bits of a page; sealPage completes the block. They are two steps so that the
// checksum is computed after the lock that guards the bits is released.
//
//	 0      40            128                                                          4096
//	┌──────┬─────────────┬────────────────────────────────────────────────────────────┐
//	│ head │ reserved, 0 │ 31,744 bits, lowest bits first                             │
//	└──────┴─────────────┴────────────────────────────────────────────────────────────┘
func encodePage(b []byte, bits *bitset.BitSet) {
	clear(b[:diskBlockBytes])
	for i, word := range bits.Words() {
		binary.LittleEndian.PutUint64(b[pageBodyOffset+8*i:], word)
	}
}

// sealPage completes a block that encodePage has filled.
func sealPage(b []byte, id pageID, sequence uint64, g *geometry) {
	seal(b, head{magic: magicPage, kind: uint16(id.slot), number: id.page, sequence: sequence}, g)
}

// decodePage returns the bits of the block and its sequence. Any error means that the page has to count as all dirty,
// a sound block of another region too: the directory, which is ours, says that it should be here.
func decodePage(b []byte, id pageID, g *geometry) (*bitset.BitSet, uint64, error) {
	h, err := unseal(b, magicPage, g)
	if err != nil {
		return nil, 0, err
	}
	if h.kind != uint16(id.slot) || h.number != id.page {
		return nil, 0, fmt.Errorf("%w: page %d of slot %d, want page %d of slot %d",
			errDamaged, h.number, h.kind, id.page, id.slot)
	}
	if !allZero(b[headBytes:pageBodyOffset]) {
		return nil, 0, fmt.Errorf("%w: reserved bytes are not zero", errDamaged)
	}
	words := make([]uint64, pageWords)
	for i := range words {
		words[i] = binary.LittleEndian.Uint64(b[pageBodyOffset+8*i:])
	}
	bits := bitset.From(words)
	if _, beyond := bits.NextSet(uint(g.pageBlocks(id.page))); beyond {
		return nil, 0, fmt.Errorf("%w: bits beyond the end of the device", errDamaged)
	}
	return bits, h.sequence, nil
}
