package bitmap

// Persist returns when every change that was made to the given slots before the call is durable. It writes only pages that
// changed. If none did it does no I/O.
func (s *Store) Persist(slots SlotMask) error {
	s.ioMu.lock()
	defer s.ioMu.unlock()
	if err := s.Err(); err != nil {
		return err
	}
	if s.closed {
		return ErrClosed
	}
	return s.persist(s.changedPages(slots))
}

// changedPages lists the pages of the given slots that differ from what was last written.
func (s *Store) changedPages(slots SlotMask) []pageID {
	var pages []pageID
	s.mapMu.Lock()
	defer s.mapMu.Unlock()
	slots.each(func(slot int) {
		changed := s.slots[slot].changed
		for page, ok := changed.NextSet(0); ok; page, ok = changed.NextSet(page + 1) {
			pages = append(pages, pageID{slot: uint8(slot), page: uint32(page)})
		}
	})
	return pages
}

// persistEvicted returns when the bits of the extents are durable in all slots. The extents are held by nobody, so no
// further bits of theirs come up.
func (s *Store) persistEvicted(extents []uint32) error {
	if !s.undurable(extents) {
		return s.Err()
	}
	s.ioMu.lock()
	defer s.ioMu.unlock()
	return s.persist(s.grownPages(extents))
}

// undurable reports whether bits of the extents may be in memory alone. A page that somebody else is writing counts, as it's
// not known to be durable; who then takes ioMu has waited for it.
func (s *Store) undurable(extents []uint32) bool {
	s.mapMu.Lock()
	defer s.mapMu.Unlock()
	for _, extent := range extents {
		page := extent / extentsPerPage
		for slot := range s.slots {
			if s.slots[slot].grown.Test(uint(page)) {
				return true
			}
			if _, ok := s.saving[pageID{uint8(slot), page}]; ok {
				return true
			}
		}
	}
	return false
}

// grownPages lists the pages that have bits of the extents and were not written since bits were set in them.
func (s *Store) grownPages(extents []uint32) []pageID {
	listed := map[pageID]struct{}{}
	var pages []pageID
	s.mapMu.Lock()
	defer s.mapMu.Unlock()
	for _, extent := range extents {
		for slot := range s.slots {
			id := pageID{uint8(slot), extent / extentsPerPage}
			if _, ok := listed[id]; !ok && s.slots[slot].grown.Test(uint(id.page)) {
				listed[id] = struct{}{}
				pages = append(pages, id)
			}
		}
	}
	return pages
}

// persist makes pages durable, under ioMu: the blocks, a sync, then the directory where it has to change. The order matters:
// an entry must never say "written" of a block that may still be an older one.
func (s *Store) persist(pages []pageID) error {
	entries, blocks, err := s.writePages(pages)
	defer s.saved()
	if err != nil {
		return err
	}
	for i, id := range pages {
		s.directory.set(id, entries[i])
	}
	if blocks > 0 {
		if err := s.syncRegion(); err != nil {
			return err
		}
	}
	return s.writeDirectory()
}

// writePages writes the blocks of those pages that are neither clean nor all dirty, and returns what the directory has to
// say of each page.
func (s *Store) writePages(pages []pageID) (entries []entry, blocks int, err error) {
	entries = make([]entry, len(pages))
	for i, id := range pages {
		entries[i] = s.snapshot(id)
		if entries[i] != entryWritten {
			continue
		}
		s.sequence++
		sealPage(s.buffer, id, s.sequence, &s.g)
		if err := s.write(s.buffer, s.g.pageOffset(int(id.slot), id.page)); err != nil {
			return nil, blocks, err
		}
		s.counts.pages.Add(1)
		blocks++
	}
	return entries, blocks, nil
}

// snapshot fills the body of s.buffer with a page as it is now.
func (s *Store) snapshot(id pageID) entry {
	clear(s.buffer[:pageBodyOffset])
	s.mapMu.Lock()
	defer s.mapMu.Unlock()
	s.saving[id] = struct{}{}
	return s.slots[id.slot].snapshot(id.page, s.buffer)
}

// saved ends the time in which pages are in flight. After a failure that does no harm: a failed store evicts nothing.
func (s *Store) saved() {
	s.mapMu.Lock()
	defer s.mapMu.Unlock()
	clear(s.saving)
}

// syncRegion syncs under ioMu, so that the mirror of the directory is durable as well.
func (s *Store) syncRegion() error {
	if err := s.sync(); err != nil {
		return err
	}
	s.mirrorPending = false
	return nil
}

// writeDirectory writes the changed blocks of the directory: one copy, a sync, which is the commit point, and then the same to
// the other copy, which becomes durable with the next sync. At no time are both copies of a block in flight.
func (s *Store) writeDirectory() error {
	changed := s.directory.changed
	if changed.None() {
		return nil
	}
	if s.mirrorPending {
		if err := s.syncRegion(); err != nil {
			return err
		}
	}
	s.sequence++
	for pass := range directoryCopies {
		for block, ok := changed.NextSet(0); ok; block, ok = changed.NextSet(block + 1) {
			dirCopy := s.directory.copyOf(block, pass)
			s.directory.encodeBlock(s.buffer, uint32(block), dirCopy, s.sequence)
			if err := s.write(s.buffer, s.g.directoryOffset(dirCopy, uint32(block))); err != nil {
				return err
			}
			s.counts.directory.Add(1)
		}
		if pass == 0 {
			if err := s.syncRegion(); err != nil {
				return err
			}
		}
	}
	s.mirrorPending = true
	s.directory.written()
	return nil
}
