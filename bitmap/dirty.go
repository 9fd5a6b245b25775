package bitmap

// Set marks as dirty, in all the given slots, every block that the range touches. A crash does not lose these bits if the caller
// holds the extents and the slots are among the peers that the next Open is given; else only once Persist has returned.
func (s *Store) Set(slots SlotMask, offBytes, n uint64) {
	s.mapMu.Lock()
	defer s.mapMu.Unlock()
	start, end := s.g.outward(offBytes, n)
	slots.each(func(slot int) { s.slots[slot].set(start, end) })
}

// SetAll marks every block of one slot as dirty. It takes next to no memory.
func (s *Store) SetAll(slot int) {
	s.mapMu.Lock()
	defer s.mapMu.Unlock()
	s.slots[slot].setAll()
}

// Clear marks as clean, in one slot, every block that the range covers entirely.
func (s *Store) Clear(slot int, offBytes, n uint64) {
	s.mapMu.Lock()
	defer s.mapMu.Unlock()
	start, end := s.g.inward(offBytes, n)
	s.slots[slot].clear(start, end)
}

// ClearAll marks every block of one slot as clean.
func (s *Store) ClearAll(slot int) {
	s.mapMu.Lock()
	defer s.mapMu.Unlock()
	s.slots[slot].clearAll()
}

// DirtyBlocks returns how many blocks of one slot are dirty. It is O(1).
func (s *Store) DirtyBlocks(slot int) uint64 {
	s.mapMu.Lock()
	defer s.mapMu.Unlock()
	return s.slots[slot].dirty
}

// NextDirty returns the first run of dirty blocks of one slot at or behind fromBlock: where it starts and how many blocks it
// has. A long run is returned in parts. It is not ok if there is none.
func (s *Store) NextDirty(slot int, fromBlock uint64) (start, count uint64, ok bool) {
	s.mapMu.Lock()
	defer s.mapMu.Unlock()
	return s.slots[slot].next(fromBlock)
}

// IsDirty reports whether one of the blocks that the range touches is dirty in one slot.
func (s *Store) IsDirty(slot int, offBytes, n uint64) bool {
	s.mapMu.Lock()
	defer s.mapMu.Unlock()
	start, end := s.g.outward(offBytes, n)
	return s.slots[slot].any(start, end)
}
