package bitmap

import (
	"github.com/bits-and-blooms/bitset"
)

// slotBits is one slot's bitmap in memory. A page takes memory only while some of its blocks are dirty and some are
// not, so that neither a clean slot nor a full resync costs more than a few bits per page. It is pure, and not safe
// for concurrent use: Store guards it.
//
// Invariant: a page is clean (not in dirtyPages), or all dirty (in dirtyPages and full), or has bits (in dirtyPages and partial).
type slotBits struct {
	g          *geometry
	dirtyPages *bitset.BitSet
	full       *bitset.BitSet
	partial    map[uint32]*pageBits
	dirty      uint64 // blocks

	// changed are the pages that differ from what was last written, grown those among them where bits were set. Only the latter
	// have to be written before an extent may leave the log: a bit that should be clear costs work, not data.
	changed *bitset.BitSet
	grown   *bitset.BitSet
}

// pageBits are the bits of a page that is neither clean nor all dirty.
type pageBits struct {
	bits  *bitset.BitSet
	dirty uint32
}

// pageMemoryBytes is what one pageBits costs: words, headers and its place in the map.
const pageMemoryBytes = blocksPerPage/8 + 96

func newSlotBits(g *geometry) *slotBits {
	pages := uint(g.pages)
	return &slotBits{
		g:          g,
		dirtyPages: bitset.New(pages),
		full:       bitset.New(pages),
		partial:    map[uint32]*pageBits{},
		changed:    bitset.New(pages),
		grown:      bitset.New(pages),
	}
}

// memoryBytes is O(1).
func (s *slotBits) memoryBytes() int64 {
	return int64(len(s.partial))*pageMemoryBytes + 4*int64(ceilDiv(uint64(s.g.pages), 64))*8
}

// eachPage calls f with each page that the blocks [start, end) touch, and which of its blocks.
func eachPage(start, end uint64, f func(page uint32, from, to uint)) {
	for start < end {
		page := start / blocksPerPage
		stop := min(end, (page+1)*blocksPerPage)
		f(uint32(page), uint(start-page*blocksPerPage), uint(stop-page*blocksPerPage))
		start = stop
	}
}

func (s *slotBits) set(start, end uint64) { eachPage(start, end, s.setInPage) }

func (s *slotBits) setInPage(page uint32, from, to uint) {
	if s.full.Test(uint(page)) {
		return
	}
	if from == 0 && to == uint(s.g.pageBlocks(page)) {
		s.fill(page)
		return
	}
	p := s.partial[page]
	if p == nil {
		p = &pageBits{bits: bitset.New(blocksPerPage)}
		s.partial[page] = p
		s.dirtyPages.Set(uint(page))
	}
	added := uint32(to-from) - uint32(p.bits.OnesBetween(from, to))
	if added == 0 {
		return
	}
	p.bits.SetRange(from, to)
	p.dirty += added
	s.dirty += uint64(added)
	s.changed.Set(uint(page))
	s.grown.Set(uint(page))
	if p.dirty == s.g.pageBlocks(page) {
		s.fill(page)
	}
}

// fill makes a page all dirty.
func (s *slotBits) fill(page uint32) {
	s.dirty += uint64(s.g.pageBlocks(page) - s.dirtyInPage(page))
	delete(s.partial, page)
	s.dirtyPages.Set(uint(page))
	s.full.Set(uint(page))
	s.changed.Set(uint(page))
	s.grown.Set(uint(page))
}

func (s *slotBits) setAll() {
	for page := range s.g.pages {
		if !s.full.Test(uint(page)) {
			s.fill(page)
		}
	}
}

func (s *slotBits) clear(start, end uint64) { eachPage(start, end, s.clearInPage) }

func (s *slotBits) clearInPage(page uint32, from, to uint) {
	if !s.dirtyPages.Test(uint(page)) {
		return
	}
	if from == 0 && to == uint(s.g.pageBlocks(page)) {
		s.empty(page)
		return
	}
	p := s.partial[page]
	if p == nil {
		p = s.unfold(page)
	}
	removed := uint32(p.bits.OnesBetween(from, to))
	if removed == 0 {
		return
	}
	p.bits.SetRange(from, to).FlipRange(from, to)
	p.dirty -= removed
	s.dirty -= uint64(removed)
	s.changed.Set(uint(page))
	if p.dirty == 0 {
		s.empty(page)
	}
}

// unfold gives an all dirty page bits of its own.
func (s *slotBits) unfold(page uint32) *pageBits {
	n := s.g.pageBlocks(page)
	p := &pageBits{bits: bitset.New(blocksPerPage).SetRange(0, uint(n)), dirty: n}
	s.partial[page] = p
	s.full.Clear(uint(page))
	return p
}

// empty makes a page clean.
func (s *slotBits) empty(page uint32) {
	s.dirty -= uint64(s.dirtyInPage(page))
	delete(s.partial, page)
	s.dirtyPages.Clear(uint(page))
	s.full.Clear(uint(page))
	s.changed.Set(uint(page))
}

func (s *slotBits) clearAll() {
	for page, ok := s.dirtyPages.NextSet(0); ok; page, ok = s.dirtyPages.NextSet(page + 1) {
		s.empty(uint32(page))
	}
}

func (s *slotBits) dirtyInPage(page uint32) uint32 {
	if s.full.Test(uint(page)) {
		return s.g.pageBlocks(page)
	}
	if p := s.partial[page]; p != nil {
		return p.dirty
	}
	return 0
}

// any reports whether one of the blocks [start, end) is dirty.
func (s *slotBits) any(start, end uint64) bool {
	if start >= end {
		return false
	}
	at, _, ok := s.next(start)
	return ok && at < end
}

// next returns the first run of dirty blocks at or behind from, cut at the end of its page.
func (s *slotBits) next(from uint64) (start, count uint64, ok bool) {
	if from >= s.g.blocks {
		return 0, 0, false
	}
	page, ok := s.dirtyPages.NextSet(uint(from / blocksPerPage))
	for ; ok; page, ok = s.dirtyPages.NextSet(page + 1) {
		base := uint64(page) * blocksPerPage
		within := uint(max(from, base) - base)
		if first, end, found := s.runInPage(uint32(page), within); found {
			return base + uint64(first), uint64(end - first), true
		}
	}
	return 0, 0, false
}

// runInPage returns the first run of dirty blocks at or behind from in a page that is not clean.
func (s *slotBits) runInPage(page uint32, from uint) (first, end uint, found bool) {
	n := uint(s.g.pageBlocks(page))
	p := s.partial[page]
	if p == nil {
		return from, n, from < n
	}
	first, found = p.bits.NextSet(from)
	if !found {
		return 0, 0, false
	}
	end, clean := p.bits.NextClear(first)
	if !clean {
		end = n
	}
	return first, min(end, n), true
}

// snapshot notes that the page is about to be written as it is now. It returns what the directory has to say of it and, if
// that is entryWritten, fills the body of b.
func (s *slotBits) snapshot(page uint32, b []byte) entry {
	s.changed.Clear(uint(page))
	s.grown.Clear(uint(page))
	if s.full.Test(uint(page)) {
		return entryAllDirty
	}
	p := s.partial[page]
	if p == nil {
		return entryClean
	}
	encodePage(b, p.bits)
	return entryWritten
}

// load takes over the bits of a page that was read from disk.
func (s *slotBits) load(page uint32, bits *bitset.BitSet) {
	switch n := uint32(bits.Count()); n {
	case 0:
		s.changed.Set(uint(page))
	case s.g.pageBlocks(page):
		s.fill(page)
	default:
		s.partial[page] = &pageBits{bits: bits, dirty: n}
		s.dirtyPages.Set(uint(page))
		s.dirty += uint64(n)
	}
}

// loadAllDirty takes over a page that the directory calls all dirty.
func (s *slotBits) loadAllDirty(page uint32) {
	s.fill(page)
	s.changed.Clear(uint(page))
	s.grown.Clear(uint(page))
}

// touchAll notes that every page that is not clean has to be written again.
func (s *slotBits) touchAll() { s.changed.InPlaceUnion(s.dirtyPages) }
