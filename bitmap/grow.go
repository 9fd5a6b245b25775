package bitmap

import (
	"fmt"

	"github.com/bits-and-blooms/bitset"
)

// Growth says how a Store is to go on with a larger device.
type Growth struct {
	Region      Region // where everything is from then on; apart from the one it is in now
	DeviceBytes uint64
	// Dirty are the slots towards which every new block counts as dirty.
	Dirty SlotMask
	// Switch notes, durably, that from now on Region counts. Nothing that Region held before Grow does.
	Switch func() error
}

// Grow goes on with a larger device, in another region: what counts is written there, then Switch makes it the one that
// is opened the next time. Up to that moment the old region is complete and is not changed, so that a crash leaves the one or
// the other. Requests that hold their extents go on meanwhile; who wants a cold one, or has bits made durable, waits. After an error
// the Store is failed.
func (s *Store) Grow(g Growth) error {
	s.ringMu.lock()
	defer s.ringMu.unlock()
	s.ioMu.lock()
	defer s.ioMu.unlock()
	if err := s.Err(); err != nil {
		return err
	}
	if s.closed {
		return ErrClosed
	}
	if old := s.g.deviceBytes; g.DeviceBytes <= old {
		return fmt.Errorf("bitmap: a device of %d bytes can't grow to %d", old, g.DeviceBytes)
	}
	if err := checkRegion(g.Region, Config{DeviceBytes: g.DeviceBytes, ALExtents: int(s.g.alExtents)}); err != nil {
		return err
	}
	s.enlarge(g)
	if err := s.moveTo(g.Region); err != nil {
		return err
	}
	if err := g.Switch(); err != nil {
		return s.fail(fmt.Errorf("switch to the larger region: %w", err))
	}
	return nil
}

// enlarge changes what is in memory. Nobody writes to the region until it is in the new one: ringMu and ioMu are held.
func (s *Store) enlarge(g Growth) {
	s.mapMu.Lock()
	defer s.mapMu.Unlock()
	s.logMu.Lock()
	defer s.logMu.Unlock()
	old := s.g
	s.g.grow(g.DeviceBytes)
	for slot, bits := range s.slots {
		bits.grow(&old)
		if g.Dirty.Has(slot) {
			bits.set(s.g.outward(old.deviceBytes, s.g.deviceBytes-old.deviceBytes))
		}
		bits.touchAll()
	}
}

// moveTo writes everything that counts to another region, durably.
func (s *Store) moveTo(r Region) error {
	s.region, s.mirrorPending = r, false
	s.directory = newDirectory(&s.g)
	s.markWholeDirectory()
	clear(s.logBuffer)
	for position := range s.g.logBlocks {
		if err := s.write(s.logBuffer, s.g.logOffset(position)); err != nil {
			return err
		}
	}
	if err := s.persist(s.changedPages(AllSlots)); err != nil {
		return err
	}
	if err := s.repeatTable(); err != nil {
		return err
	}
	// Both copies of the directory have to be there before the switch: what is left of former metadata in the place of one would be
	// taken for another device's.
	return s.syncRegion()
}

// repeatTable begins a ring with what is hot: once all of the table, which the last block then builds on.
func (s *Store) repeatTable() error {
	for range s.g.contextParts + 1 {
		position := s.writer.transaction(s.logBuffer, nil)
		if err := s.write(s.logBuffer, s.g.logOffset(position)); err != nil {
			return err
		}
		s.writer.synced() // it is, before anybody relies on it: the ring counts only after the switch
	}
	return nil
}

// grow changes what depends on the size of the device. The activity log does not.
func (g *geometry) grow(deviceBytes uint64) {
	larger := newGeometry(deviceBytes, int(g.alExtents))
	g.deviceBytes, g.blocks, g.extents = larger.deviceBytes, larger.blocks, larger.extents
	g.pages, g.dirBlocks = larger.pages, larger.dirBlocks
}

// grow takes the new geometry, which is in place already, over. What was the last page may have become longer; its new blocks
// are clean, as those of all new pages.
func (s *slotBits) grow(old *geometry) {
	last := old.pages - 1
	if before := old.pageBlocks(last); s.full.Test(uint(last)) && before < s.g.pageBlocks(last) {
		s.full.Clear(uint(last))
		s.partial[last] = &pageBits{bits: bitset.New(blocksPerPage).SetRange(0, uint(before)), dirty: before}
	}
	for _, pages := range []**bitset.BitSet{&s.dirtyPages, &s.full, &s.changed, &s.grown} {
		larger := bitset.New(uint(s.g.pages))
		larger.InPlaceUnion(*pages)
		*pages = larger
	}
}
