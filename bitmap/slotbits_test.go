package bitmap

import (
	"testing"

	"pgregory.net/rapid"
)

// TestSlotBitsModel compares a slot's bitmap with a plain set of block numbers.
func TestSlotBitsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := newGeometry(rapid.Uint64Range(1, 70*ExtentBytes).Draw(t, "size"), 8)
		s := newSlotBits(&g)
		model := make([]bool, g.blocks)
		block := rapid.Uint64Range(0, g.blocks)
		// Ends of pages are where mistakes are, so they come up often.
		edge := rapid.Map(rapid.Uint64Range(0, g.blocks/blocksPerPage+1), func(page uint64) uint64 {
			return min(page*blocksPerPage, g.blocks)
		})
		bound := rapid.OneOf(block, edge)
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			from, to := bound.Draw(t, "from"), bound.Draw(t, "to")
			from, to = min(from, to), max(from, to)
			dirty := true
			switch rapid.IntRange(0, 9).Draw(t, "operation") {
			case 0:
				s.setAll()
				from, to = 0, g.blocks
			case 1:
				s.clearAll()
				from, to, dirty = 0, g.blocks, false
			case 2, 3, 4, 5:
				s.set(from, to)
			default:
				s.clear(from, to)
				dirty = false
			}
			for i := from; i < to; i++ {
				model[i] = dirty
			}
			compareSlot(t, s, model)
		}
	})
}

func compareSlot(t *rapid.T, s *slotBits, model []bool) {
	got := make([]bool, len(model))
	var total uint64
	start, count, ok := s.next(0)
	for ; ok; start, count, ok = s.next(start + count) {
		if count == 0 || start/blocksPerPage != (start+count-1)/blocksPerPage {
			t.Fatalf("run of %d blocks at %d", count, start)
		}
		for i := range count {
			got[start+i] = true
		}
		total += count
	}
	if total != s.dirty {
		t.Fatalf("%d dirty blocks counted, %d found", s.dirty, total)
	}
	for i, want := range model {
		if got[i] != want {
			t.Fatalf("block %d: dirty is %v, want %v", i, got[i], want)
		}
	}
	for page := range s.g.pages {
		p := s.partial[page]
		full, dirty := s.full.Test(uint(page)), s.dirtyPages.Test(uint(page))
		if full && p != nil || dirty != (full || p != nil) || p != nil && (p.dirty == 0 || p.dirty == s.g.pageBlocks(page)) {
			t.Fatalf("page %d is neither clean nor all dirty nor has bits of its own", page)
		}
	}
}

func TestAllDirtyTakesNoMemory(t *testing.T) {
	g := newGeometry(4<<40, 8)
	s := newSlotBits(&g)
	empty := s.memoryBytes()
	s.setAll()
	if s.dirty != 1<<30 || s.memoryBytes() != empty {
		t.Errorf("%d dirty blocks in %d bytes, empty %d", s.dirty, s.memoryBytes(), empty)
	}
	s.clear(5, 6)
	if got := s.memoryBytes() - empty; got > 8192 {
		t.Errorf("one clean block costs %d bytes", got)
	}
	s.set(5, 6)
	if s.memoryBytes() != empty {
		t.Error("a page that is all dirty again keeps its memory")
	}
}
