package bitmap

import (
	"bytes"
	"fmt"
	"io"
	"slices"
)

// View is a region that is only looked at.
type View interface {
	io.ReaderAt
	Size() int64
}

// Inspection is what a region holds, found without changing anything.
type Inspection struct {
	Log       LogInspection
	Directory DirectoryInspection
	Slots     [Slots]SlotInspection
	Findings  []Finding // by part: directory, log, pages; within a part by place
}

// LogInspection is the state of the activity log.
type LogInspection struct {
	Blocks   int      // of the ring
	Unsound  []uint32 // positions of blocks that don't count: torn by a crash, or damaged
	Sequence uint64   // of the newest sound block; 0: there is none
	Stable   uint64   // the newest sequence that was durable when that block was made
	Reset    bool     // the newest block says that nothing is hot
	Clean    bool     // nothing was hot, and no block is unsound
	Damaged  bool     // it is not known what was hot: Hot is empty, and everything counts
	Hot      []uint32 // extents that may have been written when the log was left, ascending
}

// DirectoryInspection is the state of the directory.
type DirectoryInspection struct {
	Blocks        int // per copy
	UnsoundCopies int // of blocks of which the other copy is sound
	UnsoundBlocks int // no copy is sound
}

// SlotInspection is the bitmap of one slot, as opening would read it, without the hot extents.
type SlotInspection struct {
	DirtyBlocks   uint64 // of the device
	WrittenPages  int    // on disk, the damaged ones included
	AllDirtyPages int    // not on disk: the directory says that every bit is set
	DamagedPages  int    // on disk and not readable: every bit counts as set
}

// Finding is something that this package would not have written, or that a crash has left.
type Finding struct {
	Where       string // the block, in words
	OffsetBytes int64  // of the block in the region; -1: it is about no block
	Problem     string
	Consequence string // what opening makes of it
	Fatal       bool   // opening refuses the region
}

// Inspect reads all of a region that counts, checks it, and changes nothing. An error means that there is nothing to look at: the
// configuration makes no sense, or the region is smaller than it asks for. Nobody may be writing to the region.
func Inspect(v View, cfg Config) (*Inspection, error) {
	if err := checkRegion(v, cfg); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	g := newGeometry(cfg.DeviceBytes, cfg.ALExtents)
	i := &inspector{view: v, g: &g, directory: newDirectory(&g), ring: newRing(&g), buffer: make([]byte, diskBlockBytes)}
	i.readDirectory()
	i.readLog()
	if i.sound == 0 {
		i.find(0, Finding{Where: "activity log and directory", Problem: "no block is sound", Fatal: true,
			Consequence: "this is not a bitmap region, or nothing is left of it: it is not opened"})
	}
	if err := i.directory.each(i.readPage); err != nil {
		return nil, err
	}
	return &i.report, nil
}

// HotExtents are those that may have been written when the log was left, ascending, as Open would find them. known is false
// if the log is damaged beyond what a crash explains: then it may be any. Nothing is changed.
func HotExtents(v View, cfg Config) (extents []uint32, known bool, err error) {
	if err := checkRegion(v, cfg); err != nil {
		return nil, false, err
	}
	cfg = cfg.withDefaults()
	g := newGeometry(cfg.DeviceBytes, cfg.ALExtents)
	i := &inspector{view: v, g: &g, ring: newRing(&g), buffer: make([]byte, diskBlockBytes)}
	i.readLog()
	return i.report.Log.Hot, !i.report.Log.Damaged, nil
}

// inspector is one run of Inspect.
type inspector struct {
	view      View
	g         *geometry
	directory *directory
	ring      *ring
	buffer    []byte
	sound     int // blocks of directory and log
	report    Inspection
}

func (i *inspector) find(offset int64, f Finding) {
	f.OffsetBytes = offset
	i.report.Findings = append(i.report.Findings, f)
}

const refusedBlock = "the region is not opened, and not changed: a sound block of something else is no damage"

func (i *inspector) readDirectory() {
	i.report.Directory.Blocks = int(i.g.dirBlocks)
	for block := range i.g.dirBlocks {
		copies, chosen := readDirectoryBlock(i.view, i.g, block)
		i.judgeCopies(block, copies, chosen)
		if chosen < 0 {
			i.report.Directory.UnsoundBlocks++
			i.directory.setBlockAllDirty(block)
			continue
		}
		copy(i.directory.body(block), copies[chosen].body)
		i.judgeEntries(block, chosen)
	}
}

// judgeCopies compares the copies of a block with each other and with the format. chosen is -1 if none is sound.
func (i *inspector) judgeCopies(block uint32, copies [directoryCopies]directoryCopy, chosen int) {
	for dirCopy := range copies {
		c := &copies[dirCopy]
		f := Finding{Where: fmt.Sprintf("copy %d of directory block %d", dirCopy, block)}
		switch {
		case foreign(c.err):
			f.Problem, f.Consequence, f.Fatal = c.err.Error(), refusedBlock, true
		case c.err != nil && chosen < 0:
			f.Problem = c.err.Error()
			f.Consequence = "the other copy does not count either: " + i.pagesOf(block) + " count as all dirty and are resynced"
		case c.err != nil:
			i.report.Directory.UnsoundCopies++
			f.Problem, f.Consequence = c.err.Error(), "nothing is lost: the other copy is used, and this one is written anew"
		case c.sequence != copies[chosen].sequence:
			f.Problem = fmt.Sprintf("sequence %d is older than that of the other copy, %d", c.sequence, copies[chosen].sequence)
			f.Consequence = "nothing is lost: a crash leaves that; the other copy is used"
		case !bytes.Equal(c.body, copies[chosen].body):
			f.Problem = "its entries differ from those of the other copy, at the same sequence"
			f.Consequence = fmt.Sprintf("copy %d is used; neither a crash nor decay explains that: resync this replica in full", chosen)
		}
		if c.err == nil {
			i.sound++
		}
		if f.Problem != "" {
			i.find(i.g.directoryOffset(dirCopy, block), f)
		}
	}
}

// pagesOf names the pages that a block speaks of.
func (i *inspector) pagesOf(block uint32) string {
	from, to := i.directory.blockEntries(block)
	first, last := i.directory.id(from), i.directory.id(to-1)
	return fmt.Sprintf("page %d of slot %d to page %d of slot %d", first.page, first.slot, last.page, last.slot)
}

// judgeEntries looks for entries that are never written.
func (i *inspector) judgeEntries(block uint32, chosen int) {
	body := i.directory.body(block)
	first := uint64(block) * entriesPerDirectoryBlock
	_, end := i.directory.blockEntries(block)
	where := fmt.Sprintf("copy %d of directory block %d", chosen, block)
	for e := uint64(0); e < entriesPerDirectoryBlock; e++ {
		if e%4 == 0 && body[e/4] == 0 {
			e += 3
			continue
		}
		value := entry(body[e/4] >> (e % 4 * 2) & 3)
		switch {
		case first+e >= end && value != entryClean:
			i.find(i.g.directoryOffset(chosen, block), Finding{Where: where,
				Problem:     fmt.Sprintf("entry %d is %d, and there is no page that it speaks of", e, value),
				Consequence: "it is ignored"})
		case value > entryAllDirty:
			id := i.directory.id(first + e)
			i.find(i.g.directoryOffset(chosen, block), Finding{Where: where,
				Problem:     fmt.Sprintf("entry %d is %d, which the format does not use", e, value),
				Consequence: fmt.Sprintf("page %d of slot %d counts as all dirty and is resynced", id.page, id.slot)})
		}
	}
}

func (i *inspector) readLog() {
	reasons := map[uint32]error{}
	for position := range i.g.logBlocks {
		err := readBlock(i.view, i.buffer, i.g.logOffset(position))
		if err != nil {
			i.ring.addUnsound(position)
		} else {
			err = i.addLogBlock(position)
		}
		reasons[position] = err
	}
	i.sound += len(i.ring.blocks)
	replayed := i.ring.replay()
	i.report.Log = LogInspection{Blocks: int(i.g.logBlocks), Unsound: i.ring.unsound, Sequence: i.ring.newest,
		Clean: replayed.clean, Damaged: replayed.damaged, Hot: replayed.hot}
	if newest := i.ring.blocks[i.ring.newest]; newest != nil {
		i.report.Log.Stable, i.report.Log.Reset = newest.stable, newest.reset
	}
	i.judgeLog(reasons)
}

// addLogBlock gives the block in the buffer to the ring and says why it does not count, if it doesn't.
func (i *inspector) addLogBlock(position uint32) error {
	if err := i.ring.add(position, i.buffer); err != nil {
		i.find(i.g.logOffset(position), Finding{Where: fmt.Sprintf("activity log block %d", position),
			Problem: err.Error(), Consequence: refusedBlock, Fatal: true})
		return err
	}
	_, err := decodeLogBlock(i.buffer, position, i.g)
	return err
}

func (i *inspector) judgeLog(reasons map[uint32]error) {
	log := &i.report.Log
	for _, position := range log.Unsound {
		f := Finding{Where: fmt.Sprintf("activity log block %d", position), Problem: reasons[position].Error(),
			Consequence: "nothing is lost: what is needed of the log is in other blocks"}
		switch {
		case log.Damaged:
			f.Consequence = "see the damage of the whole log"
		case i.ring.inFlight(position):
			f.Consequence = "nothing is lost: it counts as the write that a crash interrupted, and nobody was promised what it says"
		}
		i.find(i.g.logOffset(position), f)
	}
	if log.Damaged {
		i.find(0, Finding{Where: "activity log", Problem: i.ring.damage(),
			Consequence: "which extents were being written is not known: every block counts as out of sync for every peer"})
	}
}

// readPage counts what a page adds to its slot's bitmap.
func (i *inspector) readPage(id pageID, e entry) error {
	slot := &i.report.Slots[id.slot]
	if e == entryAllDirty {
		slot.AllDirtyPages++
		slot.DirtyBlocks += uint64(i.g.pageBlocks(id.page))
		return nil
	}
	slot.WrittenPages++
	offset := i.g.pageOffset(int(id.slot), id.page)
	err := readBlock(i.view, i.buffer, offset)
	if err == nil {
		bits, _, decodeErr := decodePage(i.buffer, id, i.g)
		if err = decodeErr; err == nil {
			slot.DirtyBlocks += uint64(bits.Count())
			return nil
		}
	}
	slot.DamagedPages++
	slot.DirtyBlocks += uint64(i.g.pageBlocks(id.page))
	start := uint64(id.page) * blocksPerPage * BlockBytes
	i.find(offset, Finding{Where: fmt.Sprintf("bitmap page %d of slot %d", id.page, id.slot), Problem: err.Error(),
		Consequence: fmt.Sprintf("it counts as all dirty: bytes %d to %d of the device are resynced", start,
			min(start+uint64(blocksPerPage)*BlockBytes, i.g.deviceBytes)-1)})
	return nil
}

// inFlight reports whether a crash can have interrupted the write of the block at a position.
func (r *ring) inFlight(position uint32) bool {
	last := r.blocks[r.newest]
	return last != nil && slices.Contains(r.inFlightPositions(last), position)
}

// damage says why it is not known what was hot.
func (r *ring) damage() string {
	last := r.blocks[r.newest]
	switch {
	case last == nil:
		return "no block is sound"
	case r.unsoundInFlight(last) > 1:
		return "more blocks are unsound than a crash explains"
	default:
		return fmt.Sprintf("a block that has to be there, with a sequence up to %d, is not", last.stable)
	}
}

// directoryCopy is one copy of a block of the directory, or why it does not count.
type directoryCopy struct {
	body     []byte
	sequence uint64
	err      error
}

// readDirectoryBlock reads both copies of a block and says which one counts: the newer sound one, -1 if none is sound.
func readDirectoryBlock(r io.ReaderAt, g *geometry, block uint32) (copies [directoryCopies]directoryCopy, chosen int) {
	chosen = -1
	for dirCopy := range copies {
		c := &copies[dirCopy]
		b := make([]byte, diskBlockBytes)
		if c.err = readBlock(r, b, g.directoryOffset(dirCopy, block)); c.err != nil {
			continue // An unreadable copy counts like a torn one.
		}
		if c.body, c.sequence, c.err = decodeDirectoryBlock(b, block, dirCopy, g); c.err != nil {
			continue
		}
		if chosen < 0 || c.sequence > copies[chosen].sequence {
			chosen = dirCopy
		}
	}
	return copies, chosen
}
