package bitmap

import (
	"fmt"

	"github.com/bits-and-blooms/bitset"
)

// entry says what the directory knows of a page.
type entry uint8

const (
	entryClean    entry = 0 // no bit is set; the page's block means nothing
	entryWritten  entry = 1 // the page's block holds the bits
	entryAllDirty entry = 2 // every bit is set; the page's block means nothing
)

const (
	directoryBodyOffset = 64
	directoryBodyBytes  = entriesPerDirectoryBlock / 4
)

// directory is the content of the directory as it is on disk or about to be. Its pure part; persist.go writes it.
type directory struct {
	g *geometry
	// entries holds the bodies of all blocks, one after the other, packed as on disk.
	entries []byte
	// changed are the blocks that differ from what is durable.
	changed *bitset.BitSet
	// first says which copy of a block the next write has to begin with, if the other one is the only one that is sound and up to date.
	// After any write both are, and the next begins with copy 0.
	first *bitset.BitSet
}

func newDirectory(g *geometry) *directory {
	return &directory{
		g:       g,
		entries: make([]byte, int(g.dirBlocks)*directoryBodyBytes),
		changed: bitset.New(uint(g.dirBlocks)),
		first:   bitset.New(uint(g.dirBlocks)),
	}
}

func (d *directory) index(id pageID) uint64 {
	return uint64(id.slot)*uint64(d.g.pages) + uint64(id.page)
}

// get returns the entry of a page. The value that the format does not use is the careful one.
func (d *directory) get(id pageID) entry {
	i := d.index(id)
	if e := entry(d.entries[i/4] >> (i % 4 * 2) & 3); e != 3 {
		return e
	}
	return entryAllDirty
}

// set changes the entry of a page and notes that its block has to be written.
func (d *directory) set(id pageID, e entry) {
	i := d.index(id)
	shift := i % 4 * 2
	old := d.entries[i/4]
	d.entries[i/4] = old&^(3<<shift) | byte(e)<<shift
	if d.entries[i/4] != old {
		d.changed.Set(uint(i / entriesPerDirectoryBlock))
	}
}

// setBlockAllDirty is for a block of which no copy could be read.
func (d *directory) setBlockAllDirty(block uint32) {
	from, to := d.blockEntries(block)
	for i := from; i < to; i++ {
		d.set(d.id(i), entryAllDirty)
	}
}

// blockEntries returns the indices [from, to) of the entries in a block that speak of a page.
func (d *directory) blockEntries(block uint32) (from, to uint64) {
	from = uint64(block) * entriesPerDirectoryBlock
	return from, min(from+entriesPerDirectoryBlock, Slots*uint64(d.g.pages))
}

func (d *directory) id(index uint64) pageID {
	return pageID{slot: uint8(index / uint64(d.g.pages)), page: uint32(index % uint64(d.g.pages))}
}

// each calls f for every page whose entry is not clean, in order.
func (d *directory) each(f func(id pageID, e entry) error) error {
	total := Slots * uint64(d.g.pages)
	for i := uint64(0); i < total; i++ {
		if i%4 == 0 && d.entries[i/4] == 0 {
			i += 3
			continue
		}
		id := d.id(i)
		if e := d.get(id); e != entryClean {
			if err := f(id, e); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyOf returns which copy of a block is to be written in the first (0) or second (1) pass.
func (d *directory) copyOf(block uint, pass int) int {
	if d.first.Test(block) {
		return 1 - pass
	}
	return pass
}

// written notes that both copies of all changed blocks were written.
func (d *directory) written() {
	d.first.InPlaceDifference(d.changed)
	d.changed.ClearAll()
}

// body returns the part of entries that one block holds.
func (d *directory) body(block uint32) []byte {
	return d.entries[int(block)*directoryBodyBytes:][:directoryBodyBytes]
}

// encodeBlock fills b with one copy of one block of the directory.
//
//	 0      40          64                                                             4096
//	┌──────┬───────────┬──────────────────────────────────────────────────────────────┐
//	│ head │reserved, 0│ 16,128 entries of 2 bits, lowest bits first                  │
//	└──────┴───────────┴──────────────────────────────────────────────────────────────┘
func (d *directory) encodeBlock(b []byte, block uint32, dirCopy int, sequence uint64) {
	clear(b[:directoryBodyOffset])
	copy(b[directoryBodyOffset:diskBlockBytes], d.body(block))
	seal(b, head{magic: magicDirectory, kind: uint16(dirCopy), number: block, sequence: sequence}, d.g)
}

// decodeDirectoryBlock checks one copy of one block and returns its body and sequence.
func decodeDirectoryBlock(b []byte, block uint32, dirCopy int, g *geometry) ([]byte, uint64, error) {
	h, err := unseal(b, magicDirectory, g)
	if err != nil {
		return nil, 0, err
	}
	if h.kind != uint16(dirCopy) || h.number != block {
		return nil, 0, fmt.Errorf("%w: copy %d of directory block %d, want copy %d of %d",
			errDamaged, h.kind, h.number, dirCopy, block)
	}
	if !allZero(b[headBytes:directoryBodyOffset]) {
		return nil, 0, fmt.Errorf("%w: reserved bytes are not zero", errDamaged)
	}
	return b[directoryBodyOffset:diskBlockBytes], h.sequence, nil
}
