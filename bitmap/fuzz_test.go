package bitmap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/bits-and-blooms/bitset"
)

// reseal gives a fuzzed block the checksum that gets it past the first check.
func reseal(data []byte) []byte {
	b := make([]byte, diskBlockBytes)
	copy(b, data)
	binary.LittleEndian.PutUint32(b[8:], checksumOf(b))
	return b
}

// fuzzGeometry is one where every check of the decoders can matter: a partial last page, two parts of the table.
func fuzzGeometry() *geometry {
	g := newGeometry(1<<40+12345, 1000)
	return &g
}

func FuzzDecodeLogBlock(f *testing.F) {
	g := fuzzGeometry()
	b := make([]byte, diskBlockBytes)
	newLogWriter(g, 7).transaction(b, []slotUpdate{{1, 2}, {999, 262144}})
	f.Add(bytes.Clone(b))
	newLogWriter(g, 3).reset(b)
	f.Add(bytes.Clone(b))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		b := reseal(data)
		for position := range g.logBlocks {
			l, err := decodeLogBlock(b, position, g)
			if err != nil {
				continue
			}
			// What was accepted is exactly what the encoder makes of it.
			w := newLogWriter(g, l.sequence-1)
			w.stable = l.stable
			copy(w.table[l.start:], l.context)
			again := make([]byte, diskBlockBytes)
			if l.reset {
				w.reset(again)
			} else {
				for _, u := range l.updates {
					if u.slot >= l.start && u.slot < l.start+uint32(len(l.context)) && w.table[u.slot] != u.extent {
						return // An update that its own context contradicts can't be encoded.
					}
				}
				w.transaction(again, l.updates)
			}
			if !bytes.Equal(again, b) {
				t.Errorf("block was accepted and would be written otherwise:\n%s\n%s", dump(b), dump(again))
			}
		}
	})
}

func FuzzDecodePage(f *testing.F) {
	g := fuzzGeometry()
	b := make([]byte, diskBlockBytes)
	id := pageID{slot: 7, page: g.pages - 1}
	encodePage(b, bitset.New(blocksPerPage).SetRange(5, 500))
	sealPage(b, id, 99, g)
	f.Add(b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		b := reseal(data)
		bits, sequence, err := decodePage(b, id, g)
		if err != nil {
			return
		}
		again := make([]byte, diskBlockBytes)
		encodePage(again, bits)
		sealPage(again, id, sequence, g)
		if _, beyond := bits.NextSet(uint(g.pageBlocks(id.page))); beyond || !bytes.Equal(again, b) {
			t.Errorf("page was accepted and would be written otherwise:\n%s\n%s", dump(b), dump(again))
		}
	})
}

func FuzzDecodeDirectoryBlock(f *testing.F) {
	g := fuzzGeometry()
	d := newDirectory(g)
	d.setBlockAllDirty(g.dirBlocks - 1)
	b := make([]byte, diskBlockBytes)
	d.encodeBlock(b, g.dirBlocks-1, 1, 5)
	f.Add(b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		b := reseal(data)
		body, sequence, err := decodeDirectoryBlock(b, g.dirBlocks-1, 1, g)
		if err != nil {
			return
		}
		d := newDirectory(g)
		copy(d.body(g.dirBlocks-1), body)
		again := make([]byte, diskBlockBytes)
		d.encodeBlock(again, g.dirBlocks-1, 1, sequence)
		if !bytes.Equal(again, b) {
			t.Error("block was accepted and would be written otherwise")
		}
		if err := d.each(func(id pageID, e entry) error {
			if id.slot >= Slots || id.page >= g.pages || e > entryAllDirty {
				t.Errorf("entry %d of page %d of slot %d", e, id.page, id.slot)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
}

// FuzzOpen changes, erases and misplaces blocks of a region. Whatever the damage, Open refuses the region or every bit that was
// durably set is still there, and what it repaired stays so.
func FuzzOpen(f *testing.F) {
	base := newMemoryRegion(RegionBytes(small.DeviceBytes, small.ALExtents))
	if err := Format(base, small); err != nil {
		f.Fatal(err)
	}
	s, _ := opened(f, base, small, AllSlots)
	dirty := map[int][]uint64{0: {0, 5000, s.g.blocks - 1}, 3: {31743, 31744}, 7: {77}}
	for slot, blocks := range dirty {
		for _, block := range blocks {
			s.Set(SlotBit(slot), block*BlockBytes, 1)
		}
	}
	if err := s.Persist(AllSlots); err != nil {
		f.Fatal(err)
	}
	acquire(f, s, 20, 22)
	if err := s.Close(false); err != nil {
		f.Fatal(err)
	}
	last := uint32(base.size / diskBlockBytes)
	f.Add([]byte{})
	f.Add([]byte{0, 16, 1, 99, 7, 2, 17, 0, 0, 0, 1, 3, 4, 5, 6})
	f.Fuzz(func(t *testing.T, script []byte) {
		r := base.clone()
		for ; len(script) >= 5; script = script[5:] {
			at := int64(uint32(script[1])%last) * diskBlockBytes
			bit := int(binary.LittleEndian.Uint16(script[2:])) % (8 * diskBlockBytes)
			switch script[0] % 4 {
			case 0, 1:
				r.content.Flip(at, bit)
			case 2:
				r.content.Discard(at)
			case 3:
				r.content.Put(r.block(int64(uint32(script[4])%last)*diskBlockBytes), at)
			}
		}
		for range 2 {
			s, _, err := Open(r, small, AllSlots)
			if errors.Is(err, ErrNotFormatted) || errors.Is(err, ErrGeometry) || errors.Is(err, ErrVersion) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for slot, blocks := range dirty {
				for _, block := range blocks {
					if !s.IsDirty(slot, block*BlockBytes, 1) {
						t.Errorf("block %d of slot %d is lost", block, slot)
					}
				}
			}
			if err := s.Close(false); err != nil {
				t.Fatal(err)
			}
		}
	})
}
