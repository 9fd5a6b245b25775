package bitmap

import (
	"fmt"
)

// Recovery says what Open found.
type Recovery struct {
	// Clean is true if the log was closed clean: nothing was hot, nothing had to be repaired, and Open wrote nothing.
	Clean bool
	// HotExtents is how many extents were hot, and so were marked dirty in every slot asked for.
	HotExtents int
	// LogDamaged is true if the log was damaged beyond the one torn block that a crash explains. It is then not known what was hot,
	// and every block was marked dirty in every slot asked for.
	LogDamaged bool
	// UnsoundLogBlocks counts torn or otherwise unreadable blocks of the log.
	UnsoundLogBlocks int
	// DamagedPages counts bitmap pages that could not be read and now count as all dirty.
	DamagedPages int
	// DamagedDirectoryCopies counts directory blocks of which one copy could not be read. The other copy was used.
	DamagedDirectoryCopies int
	// DamagedDirectoryBlocks counts directory blocks of which no copy could be read. Everything they speak of now counts as
	// all dirty.
	DamagedDirectoryBlocks int
}

// Format makes a new, clean region. Whatever the region held before doesn't count any more. It writes only the log and the directory.
// A crash in the middle leaves a region that must be formatted again; the caller notes elsewhere that it is complete.
func Format(r Region, cfg Config) error {
	if err := checkRegion(r, cfg); err != nil {
		return err
	}
	s := newStore(r, cfg)
	clear(s.buffer)
	for position := range s.g.logBlocks {
		if err := s.write(s.buffer, s.g.logOffset(position)); err != nil {
			return err
		}
	}
	s.markWholeDirectory()
	if err := s.writeDirectory(); err != nil {
		return err
	}
	s.writer = newLogWriter(&s.g, 0)
	return s.writeReset()
}

func checkRegion(v View, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	if got, want := v.Size(), RegionBytes(cfg.DeviceBytes, cfg.ALExtents); got < want {
		return fmt.Errorf("%w: %d bytes, want %d", ErrRegionTooSmall, got, want)
	}
	return nil
}

// Open reads a region and recovers what a crash has left. peers are all slots in which a block may have to be dirty because it
// was written before the crash: every configured peer. When Open returns, every block that was dirty or in a hot extent is dirty in
// the slots of peers (blocks that were dirty also in the other slots), all that is durable, and nothing is hot. It is
// idempotent: a crash in the middle of it costs nothing but the time.
func Open(r Region, cfg Config, peers SlotMask) (*Store, Recovery, error) {
	if err := checkRegion(r, cfg); err != nil {
		return nil, Recovery{}, err
	}
	s := newStore(r, cfg)
	o := &opening{s: s, ring: newRing(&s.g)}
	if err := o.load(); err != nil {
		return nil, o.report, err
	}
	if err := o.recover(peers); err != nil {
		return nil, o.report, err
	}
	go s.commitLoop()
	return s, o.report, nil
}

// opening is one run of Open.
type opening struct {
	s       *Store
	ring    *ring
	report  Recovery
	sound   int // blocks of directory and log; a region without any is not ours
	replays replayed
}

// load reads all that was ever written. Damage is taken for dirty blocks; an error means that the region isn't what the caller
// thinks it is.
func (o *opening) load() error {
	for block := range o.s.g.dirBlocks {
		if err := o.loadDirectoryBlock(block); err != nil {
			return err
		}
	}
	if err := o.loadRing(); err != nil {
		return err
	}
	if o.sound == 0 {
		return fmt.Errorf("%w: no sound block in log and directory", ErrNotFormatted)
	}
	return o.s.directory.each(o.loadPage)
}

// loadDirectoryBlock takes the newer of the two copies of a block.
func (o *opening) loadDirectoryBlock(block uint32) error {
	s, sound := o.s, 0
	copies, chosen := readDirectoryBlock(s.region, &s.g, block)
	for dirCopy := range copies {
		if foreign(copies[dirCopy].err) {
			return copies[dirCopy].err
		}
		if copies[dirCopy].err == nil {
			sound++
		}
	}
	o.sound += sound
	s.directory.first.SetTo(uint(block), chosen == 0)
	if chosen < 0 {
		o.report.DamagedDirectoryBlocks++
		s.directory.setBlockAllDirty(block)
		return nil
	}
	copy(s.directory.body(block), copies[chosen].body)
	s.sequence = max(s.sequence, copies[chosen].sequence)
	if sound == 1 {
		o.report.DamagedDirectoryCopies++
	}
	return nil
}

func (o *opening) loadRing() error {
	s := o.s
	for position := range s.g.logBlocks {
		if readBlock(s.region, s.logBuffer, s.g.logOffset(position)) != nil {
			o.ring.addUnsound(position)
			continue
		}
		if err := o.ring.add(position, s.logBuffer); err != nil {
			return err
		}
	}
	o.sound += len(o.ring.blocks)
	o.report.UnsoundLogBlocks = len(o.ring.unsound)
	o.replays = o.ring.replay()
	return nil
}

// loadPage takes over a page that the directory does not call clean.
func (o *opening) loadPage(id pageID, e entry) error {
	s := o.s
	slot := s.slots[id.slot]
	if e == entryAllDirty {
		slot.loadAllDirty(id.page)
		return nil
	}
	if readBlock(s.region, s.buffer, s.g.pageOffset(int(id.slot), id.page)) != nil {
		o.damagedPage(id)
		return nil
	}
	bits, sequence, err := decodePage(s.buffer, id, &s.g)
	if err != nil {
		o.damagedPage(id)
		return nil
	}
	s.sequence = max(s.sequence, sequence)
	slot.load(id.page, bits)
	return nil
}

func (o *opening) damagedPage(id pageID) {
	o.report.DamagedPages++
	o.s.slots[id.slot].fill(id.page)
}

// recover turns what was hot into bits, makes that durable, and only then empties the log. After anything but a clean end all that was read
// is written again: the failed sync of an earlier process may have left blocks that can be read but are not on the medium.
func (o *opening) recover(peers SlotMask) error {
	s := o.s
	damaged := o.report.DamagedPages + o.report.DamagedDirectoryCopies + o.report.DamagedDirectoryBlocks
	o.report.Clean = o.replays.clean && damaged == 0
	o.report.LogDamaged = o.replays.damaged
	o.report.HotExtents = len(o.replays.hot)
	s.writer = newLogWriter(&s.g, o.ring.newest)
	// A process that was killed may have left writes which can be read but are not yet durable. What follows builds on them.
	if err := s.syncRegion(); err != nil || o.report.Clean {
		return err
	}
	o.markHot(peers)
	for _, slot := range s.slots {
		slot.touchAll()
	}
	s.markWholeDirectory()
	if err := s.persist(s.changedPages(AllSlots)); err != nil {
		return err
	}
	return o.emptyLog()
}

func (o *opening) markHot(peers SlotMask) {
	peers.each(func(slot int) {
		if o.replays.damaged {
			o.s.slots[slot].setAll()
			return
		}
		for _, extent := range o.replays.hot {
			start, end := o.s.g.extentBlocks(extent)
			o.s.slots[slot].set(start, end)
		}
	})
}

// emptyLog overwrites the unsound blocks, so that they are never counted together with a later torn one, and then writes the
// reset.
func (o *opening) emptyLog() error {
	s := o.s
	clear(s.logBuffer)
	for _, position := range o.ring.unsound {
		if err := s.write(s.logBuffer, s.g.logOffset(position)); err != nil {
			return err
		}
	}
	if err := s.syncRegion(); err != nil {
		return err
	}
	return s.writeReset()
}

// markWholeDirectory makes the next writeDirectory write every block.
func (s *Store) markWholeDirectory() { s.directory.changed.SetAll() }
